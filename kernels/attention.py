"""Causal attention, forward and backward, straight from the packed projection.

For one head with queries Q, keys K, values V of (T, D) and S = Q·Kᵀ/√D, masked above the diagonal::

    P = softmax(S)        Y = P·V
    dV = Pᵀ·dY            dS = P ∘ (dY·Vᵀ - δ),  δ = rowsum(dY ∘ Y)
    dQ = dS·K/√D          dK = dSᵀ·Q/√D

(Dao et al. 2022, FlashAttention, algorithms 1 and 4; Dao 2023, FlashAttention-2, section 3.) P is
never stored: the forward keeps the log-sum-exp of each row, the backward computes P again from it.

- Everything is in base 2: exp2 is an instruction of the GPU, and log2(e) rides on the scale.
- q, k and v are read out of the packed projection by strides and their gradients are written into
  one packed gradient, so nothing is transposed, split or concatenated in memory.
- Blocks left of the diagonal run without a mask; only those that it crosses pay for one.
- dK/dV and dQ have a kernel each, so no sum depends on the order in which programs finish: equal
  inputs give equal bits.
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
from pygpt.kernels.common import check_dtypes, forbid_second_derivative, unit_stride

# A masked score. Finite, so that no inf - inf can arise; far below any score of finite inputs.
MASKED = tl.constexpr(-1.0e30)

# --- kernels --------------------------------------------------------------------------------------


@triton.jit
def _load_tile(
    base_ptr,  # (n_rows, HEAD), rows row_stride apart
    start,  # first row
    n_rows,
    row_stride,  # elements
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    CHECK_ROWS: tl.constexpr,  # whether rows may lie beyond the last
):
    """Rows [start, start + BLOCK) of one head; zero beyond the last row and the head size."""
    rows = start + tl.arange(0, BLOCK)
    columns = tl.arange(0, HEAD_BLOCK)
    pointers = base_ptr + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    mask = (columns < HEAD)[None, :]
    if CHECK_ROWS:
        mask = mask & (rows < n_rows)[:, None]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _store_tile(
    base_ptr,  # (n_rows, HEAD), rows row_stride apart
    tile,  # (BLOCK, HEAD_BLOCK)
    start,  # first row
    n_rows,
    row_stride,  # elements
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
):
    rows = start + tl.arange(0, BLOCK)
    columns = tl.arange(0, HEAD_BLOCK)
    pointers = base_ptr + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    mask = (rows < n_rows)[:, None] & (columns < HEAD)[None, :]
    tl.store(pointers, tile.to(base_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _mask_future(scores, queries, keys):
    return tl.where(queries >= keys, scores, MASKED)


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
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DIAGONAL: tl.constexpr,  # whether the block needs the causal mask
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """Take one block of keys and values into the running softmax."""
    k = _load_tile(k_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if DIAGONAL:
        queries = q_start + tl.arange(0, Q_BLOCK)
        keys = k_start + tl.arange(0, K_BLOCK)
        scores = _mask_future(scores, queries[:, None], keys[None, :])
    new_max = tl.maximum(row_max, tl.max(scores, 1) * SCALE_LOG2)
    p = tl.exp2(scores * SCALE_LOG2 - new_max[:, None])  # one fused multiply-add, one exp2
    rescale = tl.exp2(row_max - new_max)
    v = _load_tile(v_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision=PRECISION)
    return acc, new_max, row_sum * rescale + tl.sum(p, 1)


@triton.jit(do_not_specialize=["T", "n_head"])
def _forward_kernel(
    qkv_ptr,  # (B, T, 3·C)
    y_ptr,  # (B, T, C), written
    lse_ptr,  # (B, n_head, T) fp32, written: base-2 log-sum-exp
    T,  # positions
    n_head,
    batch_stride,  # of qkv, in elements
    row_stride,
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """One block of queries of one head: y (B, T, C) and the base-2 log-sum-exp (B, n_head, T)."""
    q_blocks = tl.cdiv(T, Q_BLOCK)
    # The last queries see the most keys: the longest programs start first.
    q_start = (q_blocks - 1 - tl.program_id(0) % q_blocks) * Q_BLOCK
    head = tl.program_id(0) // q_blocks
    batch = (head // n_head).to(tl.int64)
    channels = n_head * HEAD
    q_base = qkv_ptr + batch * batch_stride + (head % n_head) * HEAD
    k_base = q_base + channels
    v_base = k_base + channels

    q = _load_tile(q_base, q_start, T, row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    acc = tl.zeros((Q_BLOCK, HEAD_BLOCK), tl.float32)
    row_max = tl.full((Q_BLOCK,), MASKED, tl.float32)
    row_sum = tl.zeros((Q_BLOCK,), tl.float32)
    diagonal = q_start // K_BLOCK * K_BLOCK
    for k_start in range(0, diagonal, K_BLOCK):
        acc, row_max, row_sum = _forward_step(
            acc, row_max, row_sum, q, k_base, v_base, q_start, k_start, T, row_stride,
            SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, False, PRECISION,
        )  # fmt: skip
    for k_start in range(diagonal, tl.minimum(q_start + Q_BLOCK, T), K_BLOCK):
        acc, row_max, row_sum = _forward_step(
            acc, row_max, row_sum, q, k_base, v_base, q_start, k_start, T, row_stride,
            SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, True, PRECISION,
        )  # fmt: skip

    y_base = y_ptr + batch * T * channels + (head % n_head) * HEAD
    _store_tile(y_base, acc / row_sum[:, None], q_start, T, channels, HEAD, Q_BLOCK, HEAD_BLOCK)
    rows = q_start + tl.arange(0, Q_BLOCK)
    tl.store(lse_ptr + head.to(tl.int64) * T + rows, row_max + tl.log2(row_sum), mask=rows < T)


@triton.jit(do_not_specialize=["T", "n_head"])
def _delta_kernel(
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
    batch = (head // n_head).to(tl.int64)
    channels = n_head * HEAD
    y_base = y_ptr + batch * T * channels + (head % n_head) * HEAD
    dy_base = dy_ptr + batch * dy_batch_stride + (head % n_head) * HEAD
    y_tile = _load_tile(y_base, start, T, channels, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    dy_tile = _load_tile(dy_base, start, T, dy_row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
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
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DIAGONAL: tl.constexpr,  # whether the block needs the causal mask
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """Add what one block of queries contributes.

    Rows beyond T are read as q = dy = lse = delta = 0: their p is at most 1, and p·dy and ds are 0.
    """
    q = _load_tile(q_base, q_start, T, row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    rows = q_start + tl.arange(0, Q_BLOCK)
    lse = tl.load(lse_base + rows, mask=rows < T, other=0.0)
    scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)  # transposed: pᵀ feeds dv from here
    if DIAGONAL:
        keys = k_start + tl.arange(0, K_BLOCK)
        scores = _mask_future(scores, rows[None, :], keys[:, None])
    p = tl.exp2(scores * SCALE_LOG2 - lse[None, :])
    dy = _load_tile(dy_base, q_start, T, dy_row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    dv = tl.dot(p.to(dy.dtype), dy, dv, input_precision=PRECISION)
    delta = tl.load(delta_base + rows, mask=rows < T, other=0.0)
    ds = p * (tl.dot(v, tl.trans(dy), input_precision=PRECISION) - delta[None, :])
    dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["T", "n_head"])
def _dkdv_kernel(
    qkv_ptr,  # (B, T, 3·C)
    dy_ptr,  # (B, T, C)
    lse_ptr,  # (B, n_head, T) fp32, base 2
    delta_ptr,  # (B, n_head, T) fp32
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
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """One block of keys and values of one head, over all the queries that see it."""
    k_blocks = tl.cdiv(T, K_BLOCK)
    k_start = tl.program_id(0) % k_blocks * K_BLOCK
    head = tl.program_id(0) // k_blocks
    batch = (head // n_head).to(tl.int64)
    channels = n_head * HEAD
    q_base = qkv_ptr + batch * batch_stride + (head % n_head) * HEAD
    dy_base = dy_ptr + batch * dy_batch_stride + (head % n_head) * HEAD
    lse_base = lse_ptr + head.to(tl.int64) * T
    delta_base = delta_ptr + head.to(tl.int64) * T

    k = _load_tile(q_base + channels, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, True)
    v = _load_tile(q_base + 2 * channels, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, True)
    dk = tl.zeros((K_BLOCK, HEAD_BLOCK), tl.float32)
    dv = tl.zeros((K_BLOCK, HEAD_BLOCK), tl.float32)
    diagonal_end = tl.cdiv(k_start + K_BLOCK, Q_BLOCK) * Q_BLOCK
    for q_start in range(k_start // Q_BLOCK * Q_BLOCK, tl.minimum(diagonal_end, T), Q_BLOCK):
        dk, dv = _dkdv_step(
            dk, dv, k, v, q_base, dy_base, lse_base, delta_base, q_start, k_start, T, row_stride,
            dy_row_stride, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, True, PRECISION,
        )  # fmt: skip
    for q_start in range(diagonal_end, T, Q_BLOCK):
        dk, dv = _dkdv_step(
            dk, dv, k, v, q_base, dy_base, lse_base, delta_base, q_start, k_start, T, row_stride,
            dy_row_stride, SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, False, PRECISION,
        )  # fmt: skip

    dk_base = dqkv_ptr + batch * T * 3 * channels + (head % n_head) * HEAD + channels
    _store_tile(dk_base, dk * SCALE, k_start, T, 3 * channels, HEAD, K_BLOCK, HEAD_BLOCK)
    _store_tile(dk_base + channels, dv, k_start, T, 3 * channels, HEAD, K_BLOCK, HEAD_BLOCK)


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
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    Q_BLOCK: tl.constexpr,  # queries of a block
    K_BLOCK: tl.constexpr,  # keys of a block
    DIAGONAL: tl.constexpr,  # whether the block needs the causal mask
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """Add what one block of keys and values contributes."""
    k = _load_tile(k_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    v = _load_tile(v_base, k_start, T, row_stride, HEAD, K_BLOCK, HEAD_BLOCK, DIAGONAL)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if DIAGONAL:
        queries = q_start + tl.arange(0, Q_BLOCK)
        keys = k_start + tl.arange(0, K_BLOCK)
        scores = _mask_future(scores, queries[:, None], keys[None, :])
    p = tl.exp2(scores * SCALE_LOG2 - lse[:, None])
    ds = p * (tl.dot(dy, tl.trans(v), input_precision=PRECISION) - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=["T", "n_head"])
def _dq_kernel(
    qkv_ptr,  # (B, T, 3·C)
    dy_ptr,  # (B, T, C)
    lse_ptr,  # (B, n_head, T) fp32, base 2
    delta_ptr,  # (B, n_head, T) fp32
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
    PRECISION: tl.constexpr,  # of products of fp32: ieee or tf32
):
    """One block of queries of one head, over all the keys it sees."""
    q_blocks = tl.cdiv(T, Q_BLOCK)
    q_start = (q_blocks - 1 - tl.program_id(0) % q_blocks) * Q_BLOCK
    head = tl.program_id(0) // q_blocks
    batch = (head // n_head).to(tl.int64)
    channels = n_head * HEAD
    q_base = qkv_ptr + batch * batch_stride + (head % n_head) * HEAD
    k_base = q_base + channels
    v_base = k_base + channels
    dy_base = dy_ptr + batch * dy_batch_stride + (head % n_head) * HEAD

    q = _load_tile(q_base, q_start, T, row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    dy_tile = _load_tile(dy_base, q_start, T, dy_row_stride, HEAD, Q_BLOCK, HEAD_BLOCK, True)
    rows = q_start + tl.arange(0, Q_BLOCK)
    lse_rows = tl.load(lse_ptr + head.to(tl.int64) * T + rows, mask=rows < T, other=0.0)
    delta_rows = tl.load(delta_ptr + head.to(tl.int64) * T + rows, mask=rows < T, other=0.0)
    dq = tl.zeros((Q_BLOCK, HEAD_BLOCK), tl.float32)
    diagonal = q_start // K_BLOCK * K_BLOCK
    for k_start in range(0, diagonal, K_BLOCK):
        dq = _dq_step(
            dq, q, dy_tile, lse_rows, delta_rows, k_base, v_base, q_start, k_start, T, row_stride,
            SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, False, PRECISION,
        )  # fmt: skip
    for k_start in range(diagonal, tl.minimum(q_start + Q_BLOCK, T), K_BLOCK):
        dq = _dq_step(
            dq, q, dy_tile, lse_rows, delta_rows, k_base, v_base, q_start, k_start, T, row_stride,
            SCALE_LOG2, HEAD, HEAD_BLOCK, Q_BLOCK, K_BLOCK, True, PRECISION,
        )  # fmt: skip
    dq_base = dqkv_ptr + batch * T * 3 * channels + (head % n_head) * HEAD
    _store_tile(dq_base, dq * SCALE, q_start, T, 3 * channels, HEAD, Q_BLOCK, HEAD_BLOCK)


# --- launchers and registration -------------------------------------------------------------------


def _constants(qkv: Tensor, head_size: int) -> dict[str, int | float | str]:
    """What the kernels of products are compiled for."""
    exact = qkv.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return {
        "PRECISION": "ieee" if exact else "tf32",
        "SCALE_LOG2": math.log2(math.e) / math.sqrt(head_size),
        "HEAD": head_size,
        "HEAD_BLOCK": launch.head_class(head_size),
    }


@torch.library.custom_op("pygpt::attention", mutates_args=())
def _attention(qkv: Tensor, n_head: int) -> tuple[Tensor, Tensor]:
    """(y (B, T, C) in qkv's dtype, base-2 log-sum-exp (B, n_head, T) in fp32)."""
    qkv = unit_stride(qkv)
    (B, T, C), D = _sizes(qkv, n_head)
    y, lse = qkv.new_empty(B, T, C), qkv.new_empty(B, n_head, T, dtype=torch.float32)
    if y.numel() == 0:
        return y, lse
    tile = launch.find("attention_forward", launch.head_class(D), qkv)
    with torch.cuda.device_of(qkv):
        _forward_kernel[(triton.cdiv(T, tile.rows) * B * n_head,)](
            qkv, y, lse, T, n_head, qkv.stride(0), qkv.stride(1),
            **_constants(qkv, D), Q_BLOCK=tile.rows, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
    return y, lse


@_attention.register_fake
def _(qkv: Tensor, n_head: int) -> tuple[Tensor, Tensor]:
    (B, T, C), _ = _sizes(qkv, n_head)
    return qkv.new_empty(B, T, C), qkv.new_empty(B, n_head, T, dtype=torch.float32)


@torch.library.custom_op("pygpt::attention_backward", mutates_args=())
def _attention_backward(dy: Tensor, qkv: Tensor, y: Tensor, lse: Tensor, n_head: int) -> Tensor:
    """The packed gradient (B, T, 3·C), in qkv's dtype."""
    qkv, dy, y = unit_stride(qkv), unit_stride(dy), y.contiguous()
    (B, T, _), D = _sizes(qkv, n_head)
    dqkv = qkv.new_empty(qkv.shape)
    if dqkv.numel() == 0:
        return dqkv
    delta = torch.empty_like(lse)
    constants, heads, size = _constants(qkv, D), B * n_head, launch.head_class(D)
    arguments = (qkv, dy, lse, delta, dqkv, T, n_head, *qkv.stride()[:2], *dy.stride()[:2])
    with torch.cuda.device_of(qkv):
        tile = launch.find("attention_delta", size, qkv)
        _delta_kernel[(triton.cdiv(T, tile.rows) * heads,)](
            y, dy, delta, T, n_head, dy.stride(0), dy.stride(1),
            HEAD=D, HEAD_BLOCK=size, Q_BLOCK=tile.rows, **tile.options,
        )  # fmt: skip
        tile = launch.find("attention_dkdv", size, qkv)
        _dkdv_kernel[(triton.cdiv(T, tile.columns) * heads,)](
            *arguments, SCALE=D**-0.5, **constants,
            Q_BLOCK=tile.rows, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
        tile = launch.find("attention_dq", size, qkv)
        _dq_kernel[(triton.cdiv(T, tile.rows) * heads,)](
            *arguments, SCALE=D**-0.5, **constants,
            Q_BLOCK=tile.rows, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
    return dqkv


@_attention_backward.register_fake
def _(dy: Tensor, qkv: Tensor, y: Tensor, lse: Tensor, n_head: int) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _sizes(qkv: Tensor, n_head: int) -> tuple[tuple[int, int, int], int]:
    B, T, packed = qkv.shape
    return (B, T, packed // 3), packed // (3 * n_head)


def _setup_context(ctx, inputs, output) -> None:
    qkv, ctx.n_head = inputs
    y, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(qkv, y, lse)


def _backward(ctx, dy, _dlse) -> tuple[Tensor, None]:
    return _attention_backward(dy, *ctx.saved_tensors, ctx.n_head), None


_attention.register_autograd(_backward, setup_context=_setup_context)
forbid_second_derivative(_attention_backward, "attention")

# --- public function ------------------------------------------------------------------------------


def attention(qkv: Tensor, n_head: int) -> Tensor:
    """Causal softmax attention of every head; see `pygpt.ops.attention`, the contract.

    Args:
        qkv: (B, T, 3·C) in fp32, fp16 or bf16. A last dimension that is not contiguous is copied.
        n_head: heads; the head size D = C / n_head is at most 128.

    Returns:
        (B, T, C), in qkv's dtype.

    Raises:
        ValueError: another dtype or a larger head.
    """
    check_dtypes("attention", qkv=qkv)
    launch.head_class(qkv.size(2) // (3 * n_head))
    y: Tensor = _attention(qkv, n_head)[0]
    return y
