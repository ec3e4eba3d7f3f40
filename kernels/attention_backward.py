"""The kernels of attention's backward: delta, the gradients of keys and values, that of queries.

The formulas are in ``pygpt.kernels.attention``, which launches them.

dK/dV and dQ have a kernel each, so no sum depends on the order in which programs finish: equal
inputs give equal bits.
"""

import triton
import triton.language as tl

from pygpt.kernels.attention_tiles import (
    head_base,
    kept_weights,
    load_tile,
    mask_future,
    store_tile,
)


@triton.jit(do_not_specialize=["T", "n_head"])
def delta_kernel(
    y_ptr,  # (B, T, C)
    dy_ptr,  # (B, T, C)
    delta_ptr,  # (B, n_head, T) fp32, written
    T,  # positions
    n_head,
    dy_batch_stride,  # of dy, in elements
    dy_row_stride,
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
):
    """The sums of dy·y over each head's channels: delta (B, n_head, T)."""
    q_blocks = tl.cdiv(T, Q_BLOCK)
    start = tl.program_id(0) % q_blocks * Q_BLOCK
    head = tl.program_id(0) // q_blocks
    channels = n_head * HEAD
    y_base = head_base(y_ptr, head, n_head, tl.cast(T, tl.int64) * channels, HEAD)
    dy_base = head_base(dy_ptr, head, n_head, dy_batch_stride, HEAD)
    y_tile = load_tile(y_base, start, T, channels, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    dy_tile = load_tile(dy_base, start, T, dy_row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    rows = start + tl.arange(0, Q_BLOCK)
    sums = tl.sum(y_tile.to(tl.float32) * dy_tile.to(tl.float32), 1)
    tl.store(delta_ptr + head.to(tl.int64) * T + rows, sums, mask=rows < T)


@triton.jit
def _dkdv_step(
    dk,  # (K_BLOCK, HEAD_BLOCK) fp32
    dv,  # (K_BLOCK, HEAD_BLOCK) fp32
    k,  # (K_BLOCK, HEAD_BLOCK)
    v,  # (K_BLOCK, HEAD_BLOCK)
    q_base,  # pointer to the head's queries, (T, HEAD)
    dy_base,  # pointer to its part of dy, (T, HEAD)
    lse_base,  # pointer to (T,)
    delta_base,  # pointer to (T,)
    q_start,
    k_start,
    T,
    row_stride,
    dy_row_stride,
    seed,  # of dropout
    head,  # of all sequences
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DIAGONAL: tl.constexpr,  # whether the block needs the causal mask
    DROPOUT: tl.constexpr,  # the probability of dropping a weight, times 2³²; 0 for no dropout
    KEPT_SCALE: tl.constexpr,  # 1/(1 - that probability)
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """Add what one block of queries contributes.

    Rows beyond T are read as q = dy = lse = delta = 0: their p is at most 1, and p·dy and ds are 0.
    """
    q = load_tile(q_base, q_start, T, row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    rows = q_start + tl.arange(0, Q_BLOCK)
    lse = tl.load(lse_base + rows, mask=rows < T, other=0.0)
    scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)  # transposed: pᵀ feeds dv from here
    if DIAGONAL:
        keys = k_start + tl.arange(0, K_BLOCK)
        scores = mask_future(scores, rows[None, :], keys[:, None])
    p = tl.exp2(scores * SCALE_LOG2 - lse[None, :])
    dy = load_tile(dy_base, q_start, T, dy_row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    kept_p = p
    if DROPOUT:
        kept = tl.trans(kept_weights(seed, head, q_start, k_start, Q_BLOCK, K_BLOCK, DROPOUT))
        kept_p = tl.where(kept, p, 0.0)
    dv = tl.dot(kept_p.to(dy.dtype), dy, dv, input_precision=PRECISION)
    delta = tl.load(delta_base + rows, mask=rows < T, other=0.0)
    dp = tl.dot(v, tl.trans(dy), input_precision=PRECISION)
    if DROPOUT:
        dp = tl.where(kept, dp * KEPT_SCALE, 0.0)
    ds = p * (dp - delta[None, :])
    dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["T", "n_head"])
def dkdv_kernel(
    qkv_ptr,  # (B, T, 3·C)
    dy_ptr,  # (B, T, C)
    lse_ptr,  # (B, n_head, T) fp32, base 2
    delta_ptr,  # (B, n_head, T) fp32
    seed_ptr,  # (1,) int64, unused without DROPOUT
    dqkv_ptr,  # (B, T, 3·C) contiguous, written
    T,  # positions
    n_head,
    batch_stride,  # of qkv, in elements
    row_stride,
    dy_batch_stride,  # of dy, in elements
    dy_row_stride,
    SCALE: tl.constexpr,  # 1/√D
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DROPOUT: tl.constexpr,  # the probability of dropping a weight, times 2³²; 0 for no dropout
    KEPT_SCALE: tl.constexpr,  # 1/(1 - that probability)
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """One block of keys and values of one head, over all the queries that see it."""
    k_blocks = tl.cdiv(T, K_BLOCK)
    k_start = tl.program_id(0) % k_blocks * K_BLOCK
    head = tl.program_id(0) // k_blocks
    channels = n_head * HEAD
    q_base = head_base(qkv_ptr, head, n_head, batch_stride, HEAD)
    dy_base = head_base(dy_ptr, head, n_head, dy_batch_stride, HEAD)
    lse_base = lse_ptr + head.to(tl.int64) * T
    delta_base = delta_ptr + head.to(tl.int64) * T
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr)

    k = load_tile(q_base + channels, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, True)
    v = load_tile(q_base + 2 * channels, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, True)
    dk = tl.zeros((K_BLOCK, HEAD_BLOCK), tl.float32)
    dv = tl.zeros((K_BLOCK, HEAD_BLOCK), tl.float32)
    diagonal_end = tl.cdiv(k_start + K_BLOCK, Q_BLOCK) * Q_BLOCK
    for q_start in range(k_start // Q_BLOCK * Q_BLOCK, tl.minimum(diagonal_end, T), Q_BLOCK):
        dk, dv = _dkdv_step(
            dk, dv, k, v, q_base, dy_base, lse_base, delta_base, q_start, k_start, T, row_stride,
            dy_row_stride, seed, head, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, True,
            DROPOUT, KEPT_SCALE, PRECISION,
        )  # fmt: skip
    for q_start in range(diagonal_end, T, Q_BLOCK):
        dk, dv = _dkdv_step(
            dk, dv, k, v, q_base, dy_base, lse_base, delta_base, q_start, k_start, T, row_stride,
            dy_row_stride, seed, head, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, False,
            DROPOUT, KEPT_SCALE, PRECISION,
        )  # fmt: skip

    if DROPOUT:
        dv *= KEPT_SCALE
    dq_base = head_base(dqkv_ptr, head, n_head, tl.cast(T, tl.int64) * 3 * channels, HEAD)
    dk_base = dq_base + channels
    store_tile(dk_base, dk * SCALE, k_start, T, 3 * channels, HEAD, K_BLOCK, HEAD_BLOCK)
    store_tile(dk_base + channels, dv, k_start, T, 3 * channels, HEAD, K_BLOCK, HEAD_BLOCK)


@triton.jit
def _dq_step(
    dq,  # (Q_BLOCK, HEAD_BLOCK) fp32
    q,  # (Q_BLOCK, HEAD_BLOCK)
    dy,  # (Q_BLOCK, HEAD_BLOCK)
    lse,  # (Q_BLOCK,) fp32, base 2
    delta,  # (Q_BLOCK,) fp32
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
    KEPT_SCALE: tl.constexpr,  # 1/(1 - that probability)
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """Add what one block of keys and values contributes."""
    k = load_tile(k_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    v = load_tile(v_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if DIAGONAL:
        queries = q_start + tl.arange(0, Q_BLOCK)
        keys = k_start + tl.arange(0, K_BLOCK)
        scores = mask_future(scores, queries[:, None], keys[None, :])
    p = tl.exp2(scores * SCALE_LOG2 - lse[:, None])
    dp = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
    if DROPOUT:
        kept = kept_weights(seed, head, q_start, k_start, Q_BLOCK, K_BLOCK, DROPOUT)
        dp = tl.where(kept, dp * KEPT_SCALE, 0.0)
    ds = p * (dp - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=["T", "n_head"])
def dq_kernel(
    qkv_ptr,  # (B, T, 3·C)
    dy_ptr,  # (B, T, C)
    lse_ptr,  # (B, n_head, T) fp32, base 2
    delta_ptr,  # (B, n_head, T) fp32
    seed_ptr,  # (1,) int64, unused without DROPOUT
    dqkv_ptr,  # (B, T, 3·C) contiguous, written
    T,  # positions
    n_head,
    batch_stride,  # of qkv, in elements
    row_stride,
    dy_batch_stride,  # of dy, in elements
    dy_row_stride,
    SCALE: tl.constexpr,  # 1/√D
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DROPOUT: tl.constexpr,  # the probability of dropping a weight, times 2³²; 0 for no dropout
    KEPT_SCALE: tl.constexpr,  # 1/(1 - that probability)
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """One block of queries of one head, over all the keys it sees."""
    q_blocks = tl.cdiv(T, Q_BLOCK)
    q_start = (q_blocks - 1 - tl.program_id(0) % q_blocks) * Q_BLOCK
    head = tl.program_id(0) // q_blocks
    channels = n_head * HEAD
    q_base = head_base(qkv_ptr, head, n_head, batch_stride, HEAD)
    k_base = q_base + channels
    v_base = k_base + channels
    dy_base = head_base(dy_ptr, head, n_head, dy_batch_stride, HEAD)

    q = load_tile(q_base, q_start, T, row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    dy_tile = load_tile(dy_base, q_start, T, dy_row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    rows = q_start + tl.arange(0, Q_BLOCK)
    lse_rows = tl.load(lse_ptr + head.to(tl.int64) * T + rows, mask=rows < T, other=0.0)
    delta_rows = tl.load(delta_ptr + head.to(tl.int64) * T + rows, mask=rows < T, other=0.0)
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr)
    dq = tl.zeros((Q_BLOCK, HEAD_BLOCK), tl.float32)
    diagonal = q_start // K_BLOCK * K_BLOCK
    for k_start in range(0, diagonal, K_BLOCK):
        dq = _dq_step(
            dq, q, dy_tile, lse_rows, delta_rows, k_base, v_base, q_start, k_start, T, row_stride,
            seed, head, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, False,
            DROPOUT, KEPT_SCALE, PRECISION,
        )  # fmt: skip
    for k_start in range(diagonal, tl.minimum(q_start + Q_BLOCK, T), K_BLOCK):
        dq = _dq_step(
            dq, q, dy_tile, lse_rows, delta_rows, k_base, v_base, q_start, k_start, T, row_stride,
            seed, head, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, True,
            DROPOUT, KEPT_SCALE, PRECISION,
        )  # fmt: skip
    dq_base = head_base(dqkv_ptr, head, n_head, tl.cast(T, tl.int64) * 3 * channels, HEAD)
    store_tile(dq_base, dq * SCALE, q_start, T, 3 * channels, HEAD, Q_BLOCK, HEAD_BLOCK)
