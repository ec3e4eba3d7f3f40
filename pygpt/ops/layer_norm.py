"""Layer normalisation, with and without the residual add before it.

`_reference` is PyTorch's `layer_norm` with fp32 statistics. The Triton kernel is
``pygpt.kernels.layer_norm``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt.ops.checks import check_channel_vector, check_same_device
from pygpt.ops.dispatch import choose


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *, impl: str = "auto"
) -> Tensor:
    """Layer normalisation over the last dimension: (x - mean)·rstd·weight + bias.

    Ba, Kiros and Hinton 2016, equation 4. Statistics are taken in fp32 whatever x's dtype.

    Args:
        x: (…, C).
        weight: (C,).
        bias: (C,) or None.
        eps: added to the variance.
        impl: see `pygpt.ops`.

    Returns:
        (…, C), in x's dtype.

    Raises:
        ValueError: weight or bias with a shape that doesn't fit x.
    """
    check_channel_vector("layer_norm", "weight", weight, x)
    check_channel_vector("layer_norm", "bias", bias, x)
    if choose("layer_norm", impl, x.device, x.dtype, x.size(-1)) == "triton":
        from pygpt.kernels.layer_norm import layer_norm as layer_norm_triton

        normed: Tensor = layer_norm_triton(x, weight, bias, eps)
        return normed
    return _reference(x, weight, bias, eps)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The residual add and the layer norm after it, in one pass over memory.

    Args:
        x: (…, C), the output of the sublayer before.
        residual: (…, C), the residual stream; it may have a wider dtype than x (fp32 under bf16).
        weight: (C,).
        bias: (C,) or None.
        eps: added to the variance.
        impl: see `pygpt.ops`.

    Returns:
        (normed, summed), both (…, C): summed = residual + x in residual's dtype, and
        normed = layer_norm(summed) in x's dtype, which is what the next GEMM reads.

    Raises:
        ValueError: shapes that don't match.
    """
    if x.shape != residual.shape:
        raise ValueError(
            f"add_layer_norm: x {tuple(x.shape)} and residual {tuple(residual.shape)} differ"
        )
    check_same_device("add_layer_norm", x, residual)
    check_channel_vector("add_layer_norm", "weight", weight, x)
    check_channel_vector("add_layer_norm", "bias", bias, x)
    if choose("layer_norm", impl, x.device, x.dtype, x.size(-1)) == "triton":
        from pygpt.kernels.layer_norm import add_layer_norm as add_layer_norm_triton

        both: tuple[Tensor, Tensor] = add_layer_norm_triton(x, residual, weight, bias, eps)
        return both
    summed = residual + x
    return _reference(summed, weight, bias, eps).to(x.dtype), summed


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    normed = F.layer_norm(
        x.to(dtype), weight.shape, weight.to(dtype), None if bias is None else bias.to(dtype), eps
    )
    return normed.to(x.dtype)
