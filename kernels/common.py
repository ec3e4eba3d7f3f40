"""What every kernel file shares: checks of inputs, and the view of a tensor as rows."""

import math

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_dtypes(op: str, **tensors: Tensor | None) -> None:
    """Raise ValueError unless every tensor has one of `DTYPES`."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            raise ValueError(
                f"{op}: {name} is {tensor.dtype} and the Triton kernel takes float32, float16 and "
                f"bfloat16; cast it, or take impl='eager'"
            )


def unit_stride(x: Tensor) -> Tensor:
    """`x`, copied only if its last dimension is not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def as_rows(x: Tensor) -> Tensor:
    """`x` (…, C) as (M, C) with its last dimension contiguous; a view wherever that is possible."""
    return unit_stride(x.reshape(math.prod(x.shape[:-1]), x.size(-1)))
