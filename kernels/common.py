"""What every kernel file shares: input checks, the view of a tensor as rows, registration helpers.

The operators are registered with `torch.library.custom_op` rather than `triton_op`: `triton_op`
traces through the launch, which the interpreter (TRITON_INTERPRET=1) can't do on fake tensors. An
opaque operator with a fake is one registration that holds on a GPU and in the interpreter, and
torch.compile takes either without a graph break.
"""

import math

import torch
from torch import Tensor
from torch.library import CustomOpDef  # type: ignore[attr-defined]

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


def forbid_second_derivative(backward: CustomOpDef, op: str) -> None:
    """Make differentiating the operator `backward` an error that says what to do."""

    def raise_error(ctx: object, *gradients: Tensor) -> None:
        raise RuntimeError(
            f"{op}: the Triton kernel has no second derivative; take impl='eager' to differentiate "
            "twice"
        )

    backward.register_autograd(raise_error)
