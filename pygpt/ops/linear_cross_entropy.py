"""The head (final linear layer) and its cross-entropy loss.

`_reference` computes all logits with PyTorch. The Triton and native implementations never hold
them: see `pygpt.ops.chunked_cross_entropy`.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt.ops.checks import check_same_device
from pygpt.ops.chunked_cross_entropy import chunked_linear_cross_entropy
from pygpt.ops.dispatch import choose


@overload
def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, *, return_per_token: Literal[True], **options: Any
) -> tuple[Tensor, Tensor, Tensor]: ...


@overload
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    return_per_token: Literal[False] = ...,
    **options: Any,
) -> Tensor: ...


def linear_cross_entropy(  # type: ignore[misc]  # its overloads say **options for most of this
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    return_per_token: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """The head and its loss: cross-entropy of softmax(x·weightᵀ) against the targets, in nats.

    The triton and native implementations never hold the (M, V) logits and compute the gradients
    with the loss: see `pygpt.ops.chunked_cross_entropy`. They take fp32 and bf16, triton fp16 too,
    and "auto" is eager for other dtypes. A second backward through one loss is an error there.

    Args:
        x: (M, C), the final hidden states.
        weight: (V, C), the head.
        targets: (M,), int64 ids in [0, V), or `ignore_index` where there is no target.
        ignore_index: the id of positions that don't count.
        reduction: "mean" over the targets that count, "sum", or "none": (M,), 0 where ignored.
        z_loss: weight of the added lse² (Chowdhery et al. 2022, section 5).
        label_smoothing: share of the target spread over all ids, as in `F.cross_entropy`.
        return_per_token: also return each token's loss and the log-sum-exp of its logits.
        impl: see `pygpt.ops`.

    Returns:
        The loss in fp32 (fp64 of fp64): a scalar, or (M,) for "none". "mean" of no target at all is
        NaN with zero gradients, as in PyTorch. With `return_per_token`, (loss, losses, lse): the
        other two are (M,), in the loss's dtype, and carry no gradient.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, or another reduction.
        IndexError: a target outside [0, V), on a CPU. On a GPU looking costs a wait, so it is done
            under `torch.autograd.detect_anomaly` alone; otherwise eager trips a device assertion
            and triton makes that token's loss and gradient NaN.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.size(1) != weight.size(1):
        raise ValueError(
            f"linear_cross_entropy: x {tuple(x.shape)} and weight {tuple(weight.shape)} are not "
            "(M, C) and (V, C)"
        )
    if targets.shape != x.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"linear_cross_entropy: targets {tuple(targets.shape)}, {targets.dtype}, must be "
            f"({x.size(0)},), torch.int64"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"linear_cross_entropy: reduction={reduction!r} is none of 'mean', 'sum', 'none'"
        )
    check_same_device("linear_cross_entropy", x, weight, targets)
    gemm_dtype = _gemm_dtype(x, weight)
    chosen = choose("linear_cross_entropy", impl, x.device, gemm_dtype)
    if chosen == "eager":
        loss, losses, lse = _reference(
            x, weight, targets, ignore_index, reduction, z_loss, label_smoothing, return_per_token
        )
    else:
        loss, losses, lse = chunked_linear_cross_entropy(
            x,
            weight,
            targets,
            gemm_dtype=gemm_dtype,
            ignore_index=ignore_index,
            reduction=reduction,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            impl=chosen,
        )
    return (loss, losses, lse) if return_per_token else loss


def _gemm_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype `F.linear` computes in: autocast's where it is on, else that of both."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"linear_cross_entropy: x is {x.dtype} and weight {weight.dtype}; cast one or use "
            "autocast"
        )
    return x.dtype


def _reference(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    label_smoothing: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and without gradient each token's loss and, `with_lse`, log-sum-exp."""
    logits = F.linear(x, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(
        logits,
        targets,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    # Another pass over all logits: only where something asks for it.
    lse = logits.logsumexp(dim=1) if z_loss or with_lse else logits.new_empty(0)
    ignored = targets == ignore_index
    if z_loss:
        losses = losses + z_loss * lse.square().masked_fill(ignored, 0.0)
    loss = losses if reduction == "none" else losses.sum()
    if reduction == "mean":
        loss = loss / (~ignored).sum()
    return loss, losses.detach(), lse.detach()
