"""Linear layer and cross-entropy without holding all logits: one algorithm for every device.

Tokens are processed in chunks. One GEMM computes the chunk's logits (chunk × V) into a buffer
that all chunks share, a row kernel overwrites them with their gradient, and two more GEMMs turn
that into the chunk's part of the gradients of x and of the weight. So the forward also computes
the gradients, and the backward only scales them: no logits are stored, and none are computed twice
(Hsu et al. 2024, Liger Kernel, FusedLinearCrossEntropy).

The row kernel is `pygpt.kernels.cross_entropy` on a GPU and C++ on a CPU (`pygpt.ops.native`).

With reduction="none" the weight's gradient is a sum over tokens whose weights only the backward
knows. There the backward computes the logits again: one more GEMM, and any weighting works.

Precision: GEMMs in x's dtype (autocast's, if enabled), the row in fp32, the weight's gradient is
accumulated over the chunks in fp32. The division by the number of targets comes after the GEMMs:
1/M times a probability would underflow in fp16.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pygpt.kernels.registration import differentiable, fake, operator
from pygpt.ops import native

# Bytes for the logits of a chunk, by device type; on a GPU, for each 12 GiB of its memory. The
# weight's gradient (V × C in fp32) is read and written once a chunk, so chunks must be long: at
# V = 50,304 in bf16 these are at most 2,560 and 640 tokens. On a CPU at C = 384, chunks of 256
# tokens take a quarter more time, and chunks of 1,280 or 2,048 are not faster.
LOGITS_BYTES = {"cuda": 256 << 20, "cpu": 64 << 20}


@dataclasses.dataclass(frozen=True)
class Loss:
    """Which loss; the names are those of `pygpt.ops.linear_cross_entropy`."""

    ignore_index: int
    z_loss: float
    label_smoothing: float
    impl: str


def chunked_linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    gemm_dtype: torch.dtype,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    label_smoothing: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, reduced, and without gradients each token's loss and log-sum-exp, (M,).

    Arguments and errors: see `pygpt.ops.linear_cross_entropy`. `gemm_dtype` is the dtype of the
    GEMMs, `impl` the row kernel, "triton" or "native".
    """
    differentiate = torch.is_grad_enabled()
    loss, losses, lse, _, _ = torch.ops.pygpt.linear_cross_entropy(
        x,
        weight,
        targets,
        gemm_dtype,
        ignore_index,
        reduction,
        z_loss,
        label_smoothing,
        impl,
        differentiate and x.requires_grad,
        differentiate and weight.requires_grad,
    )
    return loss, losses, lse


# --- the operator ---------------------------------------------------------------------------------
# One opaque operator, so that torch.compile neither traces into it nor breaks its graph at it.


@operator("linear_cross_entropy")
def _forward(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    gemm_dtype: torch.dtype,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    label_smoothing: float,
    impl: str,
    need_dx: bool,
    need_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The reduced loss, each token's, lse, the *summed* loss's gradients (empty if not needed)."""
    loss = Loss(ignore_index, z_loss, label_smoothing, impl)
    at_once = reduction != "none"  # see the module's docstring
    per_token, lse, dx, dweight = _by_chunks(
        x, weight, targets, gemm_dtype, loss, None, at_once and need_dx, at_once and need_dweight
    )
    if reduction == "none":
        return per_token.clone(), per_token, lse, dx, dweight
    total = per_token.sum(dtype=torch.float64)
    if reduction == "mean":
        total = total / (targets != ignore_index).sum()
    return total.float(), per_token, lse, dx, dweight


@fake(_forward)
def _forward_fake(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    gemm_dtype: torch.dtype,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    label_smoothing: float,
    impl: str,
    need_dx: bool,
    need_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    at_once = reduction != "none"
    per_token = x.new_empty(x.size(0), dtype=torch.float32)
    return (
        torch.empty_like(per_token)
        if reduction == "none"
        else x.new_empty((), dtype=torch.float32),
        per_token,
        torch.empty_like(per_token),
        x.new_empty(x.shape if at_once and need_dx else 0, dtype=gemm_dtype),
        x.new_empty(weight.shape if at_once and need_dweight else 0, dtype=torch.float32),
    )


@operator("linear_cross_entropy_weighted_gradients")
def _weighted_gradients(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    row_weight: Tensor,
    gemm_dtype: torch.dtype,
    ignore_index: int,
    z_loss: float,
    label_smoothing: float,
    impl: str,
    need_dx: bool,
    need_dweight: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of Σ row_weight·loss, from new logits (empty where not needed)."""
    loss = Loss(ignore_index, z_loss, label_smoothing, impl)
    row_weight = row_weight.float().contiguous()
    _, _, dx, dweight = _by_chunks(
        x, weight, targets, gemm_dtype, loss, row_weight, need_dx, need_dweight
    )
    return dx, dweight


@fake(_weighted_gradients)
def _weighted_gradients_fake(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    row_weight: Tensor,
    gemm_dtype: torch.dtype,
    ignore_index: int,
    z_loss: float,
    label_smoothing: float,
    impl: str,
    need_dx: bool,
    need_dweight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(x.shape if need_dx else 0, dtype=gemm_dtype),
        x.new_empty(weight.shape if need_dweight else 0, dtype=torch.float32),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, targets, *options = inputs
    _, losses, lse, dx, dweight = output
    ctx.mark_non_differentiable(losses, lse, dx, dweight)
    ctx.set_materialize_grads(False)
    ctx.gemm_dtype, ctx.ignore_index, ctx.reduction, *ctx.loss_options, _, _ = options
    ctx.dtypes = x.dtype, weight.dtype
    ctx.spent = False
    if ctx.reduction == "none":
        ctx.save_for_backward(x, weight, targets)
    else:
        ctx.save_for_backward(targets, dx, dweight)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear_cross_entropy has no second derivative (create_graph=True); take impl='eager'"
        )
    dx = dweight = None
    if grad_loss is not None:
        dx, dweight = (_recomputed if ctx.reduction == "none" else _scaled)(ctx, grad_loss)
    return dx, dweight, *[None] * 9


def _scaled(ctx: Any, grad_loss: Tensor) -> list[Tensor | None]:
    if ctx.spent:
        raise RuntimeError(
            "linear_cross_entropy: a second backward through one loss. The gradients that were "
            "computed with the loss are scaled in place by the first, and retain_graph=True can't "
            "keep them; compute the loss again, or take impl='eager'"
        )
    ctx.spent = True
    targets, *gradients = ctx.saved_tensors
    scale = grad_loss
    if ctx.reduction == "mean":
        # At least 1: with no target at all the loss is NaN and the gradients are 0.
        scale = grad_loss / (targets != ctx.ignore_index).sum().clamp(min=1)
    if scale.device.type == "cuda":
        # (1,), because a GPU rounds a zero-dimensional scale to the gradient's dtype: in bf16, with
        # 12 × 1024 targets, every gradient would be 0.2 % too large.
        scale = scale.reshape(1)
    return [
        gradient.mul_(scale).to(dtype) if needed else None
        for gradient, dtype, needed in zip(
            gradients, ctx.dtypes, ctx.needs_input_grad, strict=False
        )
    ]


def _recomputed(ctx: Any, grad_loss: Tensor) -> list[Tensor | None]:
    need = ctx.needs_input_grad[:2]
    gradients = torch.ops.pygpt.linear_cross_entropy_weighted_gradients(
        *ctx.saved_tensors, grad_loss, ctx.gemm_dtype, ctx.ignore_index, *ctx.loss_options, *need
    )
    return [
        gradient.to(dtype) if needed else None
        for gradient, dtype, needed in zip(gradients, ctx.dtypes, need, strict=True)
    ]


differentiable(_forward, _backward, _setup_context)


# --- the algorithm --------------------------------------------------------------------------------


def _by_chunks(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    gemm_dtype: torch.dtype,
    loss: Loss,
    row_weight: Tensor | None,
    need_dx: bool,
    need_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each token's loss and lse (M,), and the gradients of Σ row_weight·loss.

    dx is in the GEMM's dtype, dweight in fp32; a gradient that isn't needed is empty.
    """
    (n_tokens, width), vocab = x.shape, weight.size(0)
    if x.device.type == "cpu" or torch.is_anomaly_enabled():
        _check_range(targets, vocab, loss.ignore_index)
    row_kernel = _row_kernel(loss.impl)
    x = x.to(gemm_dtype).contiguous()
    weight = weight.to(gemm_dtype).contiguous()
    targets = targets.contiguous()
    per_token = x.new_empty(n_tokens, dtype=torch.float32)
    lse = torch.empty_like(per_token)
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    dweight = x.new_empty((vocab, width) if need_dweight else 0, dtype=torch.float32)
    if n_tokens == 0:
        dweight.zero_()

    memory = gpu_memory(x.device)
    chunk = chunk_tokens(n_tokens, vocab, gemm_dtype.itemsize, x.device.type, memory)
    buffer = x.new_empty(chunk, vocab)
    # The caller may have autocast on; it must not change the dtype of these GEMMs.
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, n_tokens, max(chunk, 1)):
            rows = slice(start, min(start + chunk, n_tokens))
            logits = buffer[: rows.stop - start]
            torch.mm(x[rows], weight.t(), out=logits)
            row_kernel(
                logits,
                targets[rows],
                per_token[rows],
                lse[rows],
                None if row_weight is None else row_weight[rows],
                ignore_index=loss.ignore_index,
                z_loss=loss.z_loss,
                label_smoothing=loss.label_smoothing,
                gradient=need_dx or need_dweight,
            )
            if need_dx:
                torch.mm(logits, weight, out=dx[rows])
            if need_dweight:
                _add_product(dweight, logits.t(), x[rows], first=start == 0)
    return per_token, lse, dx, dweight


def _row_kernel(impl: str) -> Callable[..., None]:
    if impl == "triton":
        from pygpt.kernels import cross_entropy

        row_kernel: Callable[..., None] = cross_entropy.cross_entropy_rows
        return row_kernel
    return native.cross_entropy_rows


def _check_range(targets: Tensor, vocab: int, ignore_index: int) -> None:
    """All targets are in range. Costs nothing on a CPU; on a GPU it waits for the device.

    Raises:
        IndexError: as PyTorch's own cross-entropy does.
    """
    outside = ((targets < 0) | (targets >= vocab)) & (targets != ignore_index)
    if bool(outside.any()):
        position = int(outside.nonzero()[0])
        raise IndexError(
            f"linear_cross_entropy: target {int(targets[position])} at position {position} is not "
            f"an id in [0, {vocab}), nor ignore_index {ignore_index}"
        )


def gpu_memory(device: torch.device) -> int:
    """All bytes of a GPU's memory; 0 for another device."""
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).total_memory


def chunk_tokens(tokens: int, vocab: int, itemsize: int, device: str, memory: int = 0) -> int:
    """Tokens a chunk: as few chunks as LOGITS_BYTES allows, all of about the same length.

    A short last chunk would read and write the whole gradient of the weight for few tokens.

    Args:
        tokens: M.
        vocab: V, rows of the weight.
        itemsize: bytes of a logit.
        device: device type.
        memory: all bytes of a GPU's memory.

    Returns:
        A multiple of 128 where the budget allows that many; never more than `tokens`.
    """
    parts = max(1, round(memory / (12 << 30)))  # rounded: a GPU reports less than its data sheet
    most = max(1, parts * LOGITS_BYTES[device] // (vocab * itemsize))
    if most >= 128:
        most = most // 128 * 128
    chunks = max(1, -(-tokens // most))
    even = -(-tokens // chunks)
    return min(tokens, most, -(-even // 128) * 128)


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Total += a @ b, or total = a @ b if `first`. Total is fp32, a and b are of any dtype."""
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, beta=0 if first else 1, out=total)
    elif a.device.type == "cuda":
        torch.addmm(total, a, b, out_dtype=total.dtype, beta=0 if first else 1, out=total)
    elif first:
        total.copy_(a @ b)
    elif a.dtype == torch.bfloat16:
        native.accumulate(total, a @ b)
    else:
        total.add_(a @ b)
