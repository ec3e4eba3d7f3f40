"""Softmax cross-entropy of a tile of logits, each row's gradient written over its logits.

The row kernel of ``pygpt.ops.chunked_cross_entropy``. A program takes one row after the other, each
in two loops over blocks of columns (a single block of a whole vocabulary would spill registers):

1. the running maximum and sum of exponentials (Milakov and Gimelshein 2018, algorithm 3), kept per
   lane and merged once at the end, so that no iteration waits for a reduction. Of the two terms of
   a lane's new sum one is always exp(0), so one exponential a logit is enough;
2. softmax minus the target's distribution, in place. The row (100 KB in bf16 at V = 50,304) was
   read a moment ago and comes from the second-level cache.

All arithmetic is in fp32, by exp2 of logits times log2(e).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pygpt.kernels import launch

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_LOWEST = tl.constexpr(-2e38)  # finite, and times log2(e) too: -inf minus -inf would be NaN


@triton.jit
def _cross_entropy_row(
    row,
    first_ptr,  # logits (M, V), overwritten by the gradient
    targets_ptr,  # (M,) int64
    loss_ptr,  # (M,) fp32
    lse_ptr,  # (M,) fp32
    row_weight_ptr,  # (M,) fp32, unused without HAS_ROW_WEIGHT
    vocab,  # V
    row_stride,  # of logits, in elements
    ignore_index,  # the target of rows that don't count
    z_loss,  # weight of lse²
    label_smoothing,  # share of the target spread over all ids
    HAS_ROW_WEIGHT: tl.constexpr,
    SMOOTHING: tl.constexpr,  # whether label_smoothing is above 0
    GRADIENT: tl.constexpr,  # whether to write it
    BLOCK_V: tl.constexpr,  # columns of a block
):
    """The loss and log-sum-exp of one row, and its gradient over its logits."""
    logits_ptr = first_ptr + tl.cast(row, tl.int64) * row_stride  # row·V passes 2³¹ at row 42,689
    target = tl.load(targets_ptr + row)
    in_range = (target >= 0) & (target < vocab)

    columns = tl.arange(0, BLOCK_V)
    # Before any store, and NaN where there is no such column.
    at_target = tl.load(logits_ptr + target, mask=in_range, other=float("nan")).to(tl.float32)

    lane_max = tl.full([BLOCK_V], _LOWEST, tl.float32)
    lane_sum = tl.zeros([BLOCK_V], tl.float32)
    lane_logits = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, vocab, BLOCK_V):
        inside = start + columns < vocab
        logits = tl.load(logits_ptr + start + columns, mask=inside, other=-float("inf"))
        logits = logits.to(tl.float32)
        smaller = tl.exp2(-tl.abs(lane_max - logits) * _LOG2E)
        lane_sum = tl.where(logits > lane_max, lane_sum * smaller + 1.0, lane_sum + smaller)
        lane_max = tl.maximum(lane_max, logits)
        if SMOOTHING:
            lane_logits += tl.where(inside, logits, 0.0)
    row_max = tl.max(lane_max)
    row_sum = tl.sum(lane_sum * tl.exp2((lane_max - row_max) * _LOG2E))
    log_sum = tl.log2(row_sum) * _LN2  # lse - max: exact where lse itself is large
    lse = row_max + log_sum

    loss = (1.0 - label_smoothing) * (log_sum - (at_target - row_max)) + z_loss * lse * lse
    if SMOOTHING:
        loss += label_smoothing * (lse - tl.sum(lane_logits) / vocab)  # against equal shares
    ignored = target == ignore_index
    tl.store(loss_ptr + row, tl.where(ignored, 0.0, loss))
    tl.store(lse_ptr + row, lse)

    if GRADIENT:
        # d loss/d logit_i = (1 + 2·z·lse)·softmax_i - ε/V - (1 - ε)·[i = target]
        weight = tl.where(in_range, 1.0, float("nan"))
        if HAS_ROW_WEIGHT:
            weight *= tl.load(row_weight_ptr + row)
        scale = tl.where(ignored, 0.0, weight * (1.0 + 2.0 * z_loss * lse) / row_sum)
        offset = tl.where(ignored, 0.0, weight * label_smoothing / vocab)
        at_hit = tl.where(ignored, 0.0, weight * (1.0 - label_smoothing))
        hit_column = tl.where(in_range, target, -1).to(tl.int32)
        for start in range(0, vocab, BLOCK_V):
            inside = start + columns < vocab
            logits = tl.load(logits_ptr + start + columns, mask=inside, other=0.0).to(tl.float32)
            gradient = tl.exp2((logits - row_max) * _LOG2E) * scale - offset
            gradient = tl.where(columns == hit_column - start, gradient - at_hit, gradient)
            tl.store(
                logits_ptr + start + columns,
                gradient.to(logits_ptr.dtype.element_ty),
                mask=inside,
            )


@triton.jit(do_not_specialize=["n_rows"])
def _cross_entropy_kernel(
    logits_ptr,  # (M, V), overwritten by the gradient
    targets_ptr,  # (M,) int64
    loss_ptr,  # (M,) fp32
    lse_ptr,  # (M,) fp32
    row_weight_ptr,  # (M,) fp32, unused without HAS_ROW_WEIGHT
    n_rows,  # M
    vocab,  # V
    row_stride,  # of logits, in elements
    ignore_index,  # the target of rows that don't count
    z_loss,  # weight of lse²
    label_smoothing,  # share of the target spread over all ids
    HAS_ROW_WEIGHT: tl.constexpr,
    SMOOTHING: tl.constexpr,  # whether label_smoothing is above 0
    GRADIENT: tl.constexpr,  # whether to write it
    BLOCK_V: tl.constexpr,  # columns of a block
):
    # Few enough programs for their rows to stay in the second-level cache; see _programs.
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        _cross_entropy_row(
            row, logits_ptr, targets_ptr, loss_ptr, lse_ptr, row_weight_ptr, vocab, row_stride,
            ignore_index, z_loss, label_smoothing, HAS_ROW_WEIGHT, SMOOTHING, GRADIENT, BLOCK_V,
        )  # fmt: skip


def cross_entropy_rows(
    logits: Tensor,
    targets: Tensor,
    loss: Tensor,
    lse: Tensor,
    row_weight: Tensor | None,
    *,
    ignore_index: int,
    z_loss: float,
    label_smoothing: float,
    gradient: bool,
) -> None:
    """Softmax cross-entropy of each row of logits; with `gradient`, its gradient in their place.

    A target outside [0, V) that is not `ignore_index` makes its row's loss and gradient NaN.

    Args:
        logits: (M, V), fp32, fp16 or bf16, rows contiguous; overwritten by
            d(row_weight·loss)/d(logits).
        targets: (M,), int64.
        loss: (M,), fp32; written. 0 where the target is `ignore_index`.
        lse: (M,), fp32; written: log Σ exp(logits).
        row_weight: (M,), fp32, or None for ones.
        ignore_index: the target of rows that don't count; their gradient is 0.
        z_loss: weight of the added lse².
        label_smoothing: share of the target spread over all ids.
        gradient: whether to write the gradient; otherwise the logits are left alone.
    """
    rows, vocab = logits.shape
    if rows == 0:
        return
    config = launch.find("cross_entropy", 0, logits)
    with torch.cuda.device_of(logits):
        _cross_entropy_kernel[(_programs(logits),)](
            logits, targets, loss, lse, row_weight, rows, vocab, logits.stride(0),
            ignore_index, float(z_loss), float(label_smoothing),
            HAS_ROW_WEIGHT=row_weight is not None,
            SMOOTHING=label_smoothing > 0,
            GRADIENT=gradient,
            BLOCK_V=min(config.columns, triton.next_power_of_2(vocab)),
            **config.options,
        )  # fmt: skip


def _programs(logits: Tensor) -> int:
    """Programs, each of which works on one row at a time: no result depends on how many there are.

    A row that is read for the second time should come from the second-level cache. Three quarters
    of it are for the rows at work. Where it does not hold one for each multiprocessor, the second
    read comes from memory anyway, and there is a program for every row.
    """
    rows, vocab = logits.shape
    if logits.device.type != "cuda":
        return rows
    gpu = torch.cuda.get_device_properties(logits.device)
    fitting = gpu.L2_cache_size * 3 // 4 // (vocab * logits.element_size())
    return rows if fitting < gpu.multi_processor_count else min(rows, fitting)
