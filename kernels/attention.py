"""Causal attention, forward and backward, straight from the packed projection.

For one head with queries Q, keys K, values V of (T, D) and S = Q·Kᵀ/√D, masked above the diagonal::

    P = softmax(S)        Y = P·V
    dV = Pᵀ·dY            dS = P ∘ (dY·Vᵀ - δ),  δ = rowsum(dY ∘ Y)
    dQ = dS·K/√D          dK = dSᵀ·Q/√D

Dropout with probability p multiplies P by Z/(1 - p), Z being 0 or 1, where P meets V and where
its gradient comes back: Y = (P∘Z)·V/(1 - p), dV = (P∘Z)ᵀ·dY/(1 - p), and dY·Vᵀ becomes
(dY·Vᵀ)∘Z/(1 - p). δ stays as it is.

(Dao et al. 2022, FlashAttention, algorithms 1 and 4; Dao 2023, FlashAttention-2, section 3.) P is
never stored: the forward keeps the log-sum-exp of each row, the backward computes P again from it.

- Everything is in base 2: exp2 is an instruction of the GPU, and log2(e) rides on the scale.
- q, k and v are read out of the packed projection by strides and their gradients are written into
  one packed gradient, so nothing is transposed, split or concatenated in memory.
- Blocks left of the diagonal run without a mask; only those that it crosses pay for one.
- Z is a function of a seed and the weight's place, computed where it is needed and never stored.
- The kernels of the backward are in ``attention_backward``. None adds to what another one writes:
  equal inputs give equal bits.
- Any T runs the same code: nothing is recompiled because T is 1 or a multiple of 16.
- Products of fp32 inputs are exact, or in TF32 where torch.set_float32_matmul_precision allows
  that, as those of nn.Linear are.

Sizes: B sequences, T positions, C = n_head·D channels.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pygpt.kernels import launch
from pygpt.kernels.attention_backward import delta_kernel, dkdv_kernel, dq_kernel
from pygpt.kernels.attention_tiles import (
    MASKED,
    head_base,
    kept_weights,
    load_tile,
    mask_future,
    store_tile,
)
from pygpt.kernels.common import check_dtypes, unit_stride
from pygpt.kernels.registration import differentiable, fake, forbid_second_derivative, operator

# --- forward --------------------------------------------------------------------------------------


@triton.jit
def _forward_step(
    acc,  # (Q_BLOCK, HEAD_BLOCK) fp32
    row_max,  # (Q_BLOCK,) fp32, base 2
    row_sum,  # (Q_BLOCK,) fp32
    q,  # (Q_BLOCK, HEAD_BLOCK)
    k_base,  # pointer to the head's keys, (T, HEAD)
    v_base,  # pointer to its values, (T, HEAD)
    q_start,
    k_start,
    T,
    row_stride,
    seed,  # of dropout
    head,  # of all sequences
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DIAGONAL: tl.constexpr,  # whether the block needs the causal mask
    DROPOUT: tl.constexpr,  # the probability of dropping a weight, times 2³²; 0 for no dropout
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """Take one block of keys and values into the running softmax."""
    k = load_tile(k_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if DIAGONAL:
        queries = q_start + tl.arange(0, Q_BLOCK)
        keys = k_start + tl.arange(0, K_BLOCK)
        scores = mask_future(scores, queries[:, None], keys[None, :])
    new_max = tl.maximum(row_max, tl.max(scores, 1) * SCALE_LOG2)
    p = tl.exp2(scores * SCALE_LOG2 - new_max[:, None])  # one fused multiply-add, one exp2
    rescale = tl.exp2(row_max - new_max)
    v = load_tile(v_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    kept_p = p
    if DROPOUT:
        kept = kept_weights(seed, head, q_start, k_start, Q_BLOCK, K_BLOCK, DROPOUT)
        kept_p = tl.where(kept, p, 0.0)
    acc = tl.dot(kept_p.to(v.dtype), v, acc * rescale[:, None], input_precision=PRECISION)
    return acc, new_max, row_sum * rescale + tl.sum(p, 1)


@triton.jit(do_not_specialize=["T", "n_head"])
def _forward_kernel(
    qkv_ptr,  # (B, T, 3·C)
    y_ptr,  # (B, T, C), written
    lse_ptr,  # (B, n_head, T) fp32, written: base-2 log-sum-exp
    seed_ptr,  # (1,) int64, unused without DROPOUT
    T,  # positions
    n_head,
    batch_stride,  # of qkv, in elements
    row_stride,
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DROPOUT: tl.constexpr,  # the probability of dropping a weight, times 2³²; 0 for no dropout
    KEPT_SCALE: tl.constexpr,  # 1/(1 - that probability)
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """One block of queries of one head: y (B, T, C) and the base-2 log-sum-exp (B, n_head, T)."""
    q_blocks = tl.cdiv(T, Q_BLOCK)
    # The last queries see the most keys: the longest programs start first.
    q_start = (q_blocks - 1 - tl.program_id(0) % q_blocks) * Q_BLOCK
    head = tl.program_id(0) // q_blocks
    channels = n_head * HEAD
    q_base = head_base(qkv_ptr, head, n_head, batch_stride, HEAD)
    k_base = q_base + channels
    v_base = k_base + channels
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr)

    q = load_tile(q_base, q_start, T, row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    acc = tl.zeros((Q_BLOCK, HEAD_BLOCK), tl.float32)
    row_max = tl.full((Q_BLOCK,), MASKED, tl.float32)
    row_sum = tl.zeros((Q_BLOCK,), tl.float32)
    diagonal = q_start // K_BLOCK * K_BLOCK
    for k_start in range(0, diagonal, K_BLOCK):
        acc, row_max, row_sum = _forward_step(
            acc, row_max, row_sum, q, k_base, v_base, q_start, k_start, T, row_stride,
            seed, head, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, False, DROPOUT, PRECISION,
        )  # fmt: skip
    for k_start in range(diagonal, tl.minimum(q_start + Q_BLOCK, T), K_BLOCK):
        acc, row_max, row_sum = _forward_step(
            acc, row_max, row_sum, q, k_base, v_base, q_start, k_start, T, row_stride,
            seed, head, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, True, DROPOUT, PRECISION,
        )  # fmt: skip

    y = acc / row_sum[:, None]
    if DROPOUT:
        y *= KEPT_SCALE
    y_base = head_base(y_ptr, head, n_head, tl.cast(T, tl.int64) * channels, HEAD)
    store_tile(y_base, y, q_start, T, channels, HEAD, Q_BLOCK, HEAD_BLOCK)
    rows = q_start + tl.arange(0, Q_BLOCK)
    tl.store(lse_ptr + head.to(tl.int64) * T + rows, row_max + tl.log2(row_sum), mask=rows < T)


# --- launchers and registration -------------------------------------------------------------------


def _constants(qkv: Tensor, head_size: int, dropout: float) -> dict[str, int | float | str]:
    """What the kernels of products are compiled for."""
    exact = qkv.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return {
        "PRECISION": "ieee" if exact else "tf32",
        "SCALE_LOG2": math.log2(math.e) / math.sqrt(head_size),
        "HEAD": head_size,
        "HEAD_BLOCK": launch.head_class(head_size),
        "DROPOUT": min(round(dropout * 2**32), 2**32 - 1),
        "KEPT_SCALE": 1 / (1 - dropout),
    }


@operator("attention")
def _attention(
    qkv: Tensor, n_head: int, dropout: float = 0.0, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(y (B, T, C) in qkv's dtype, base-2 log-sum-exp (B, n_head, T) in fp32)."""
    qkv = unit_stride(qkv)
    (B, T, C), D = _sizes(qkv, n_head)
    y, lse = qkv.new_empty(B, T, C), qkv.new_empty(B, n_head, T, dtype=torch.float32)
    if y.numel() == 0:
        return y, lse
    tile = launch.find("attention_forward", launch.head_class(D), qkv)
    with torch.cuda.device_of(qkv):
        _forward_kernel[(triton.cdiv(T, tile.rows) * B * n_head,)](
            qkv, y, lse, seed, T, n_head, qkv.stride(0), qkv.stride(1),
            **_constants(qkv, D, dropout),
            Q_BLOCK=tile.rows, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
    return y, lse


@fake(_attention)
def _(
    qkv: Tensor, n_head: int, dropout: float = 0.0, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    (B, T, C), _ = _sizes(qkv, n_head)
    return qkv.new_empty(B, T, C), qkv.new_empty(B, n_head, T, dtype=torch.float32)


@operator("attention_backward")
def _attention_backward(
    dy: Tensor,
    qkv: Tensor,
    y: Tensor,
    lse: Tensor,
    n_head: int,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """The packed gradient (B, T, 3·C), in qkv's dtype."""
    qkv, dy, y = unit_stride(qkv), unit_stride(dy), y.contiguous()
    (B, T, _), D = _sizes(qkv, n_head)
    dqkv = qkv.new_empty(qkv.shape)
    if dqkv.numel() == 0:
        return dqkv
    delta = torch.empty_like(lse)
    heads, size = B * n_head, launch.head_class(D)
    constants = _constants(qkv, D, dropout) | {"SCALE": D**-0.5}
    arguments = (qkv, dy, lse, delta, seed, dqkv, T, n_head, *qkv.stride()[:2], *dy.stride()[:2])
    with torch.cuda.device_of(qkv):
        tile = launch.find("attention_delta", size, qkv)
        delta_kernel[(triton.cdiv(T, tile.rows) * heads,)](
            y, dy, delta, T, n_head, dy.stride(0), dy.stride(1),
            HEAD=D, HEAD_BLOCK=size, Q_BLOCK=tile.rows, **tile.options,
        )  # fmt: skip
        tile = launch.find("attention_dkdv", size, qkv)
        dkdv_kernel[(triton.cdiv(T, tile.columns) * heads,)](
            *arguments, **constants, Q_BLOCK=tile.rows, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
        tile = launch.find("attention_dq", size, qkv)
        dq_kernel[(triton.cdiv(T, tile.rows) * heads,)](
            *arguments, **constants, Q_BLOCK=tile.rows, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
    return dqkv


@fake(_attention_backward)
def _(
    dy: Tensor,
    qkv: Tensor,
    y: Tensor,
    lse: Tensor,
    n_head: int,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _sizes(qkv: Tensor, n_head: int) -> tuple[tuple[int, int, int], int]:
    B, T, packed = qkv.shape
    return (B, T, packed // 3), packed // (3 * n_head)


def _setup_context(ctx, inputs, output) -> None:
    qkv, ctx.n_head, ctx.dropout, seed = inputs
    y, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(qkv, y, lse, seed)


def _backward(ctx, dy, _dlse) -> tuple[Tensor, None, None, None]:
    *saved, seed = ctx.saved_tensors
    return _attention_backward(dy, *saved, ctx.n_head, ctx.dropout, seed), None, None, None


differentiable(_attention, _backward, _setup_context)
forbid_second_derivative(_attention_backward, "attention")

# --- public function ------------------------------------------------------------------------------


def attention(qkv: Tensor, n_head: int, dropout: float = 0.0, seed: Tensor | None = None) -> Tensor:
    """Causal softmax attention of every head; see `pygpt.ops.attention`, the contract.

    Args:
        qkv: (B, T, 3·C) in fp32, fp16 or bf16. A last dimension that is not contiguous is copied.
        n_head: heads; the head size D = C / n_head is at most 128.
        dropout: probability of dropping a weight, below 1.
        seed: (1,), int64, on qkv's device: which weights are dropped; needed where dropout is.

    Returns:
        (B, T, C), in qkv's dtype.

    Raises:
        ValueError: another dtype, a larger head, or dropout without a seed.
    """
    check_dtypes("attention", qkv=qkv)
    launch.head_class(qkv.size(2) // (3 * n_head))
    if dropout and seed is None:
        raise ValueError(f"attention: dropout={dropout} needs a seed, (1,) int64")
    y: Tensor = _attention(qkv, n_head, dropout, seed)[0]
    return y
