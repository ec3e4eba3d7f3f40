"""Attention of one new position over all keys so far: a step of decoding with a cache.

For one head with the query q of (D,) and keys and values K, V of (S, D)::

    y = softmax(K·q/√D)ᵀ·V

A program takes one head of one sequence and walks over the keys with a running softmax in base 2
(Milakov and Gimelshein 2018, algorithm 3). With one query there is nothing for the tensor cores to
do; the step is bound by reading K and V once. Keys and values may be views of a longer buffer.

It has no backward: decoding needs none. Sizes: B sequences, S keys, C = n_head·D channels.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pygpt.kernels import launch
from pygpt.kernels.common import check_dtypes, unit_stride
from pygpt.kernels.registration import fake, operator

# --- kernel ---------------------------------------------------------------------------------------


# Not recompiled when S, which grows with every step, happens to be 1 or a multiple of 16.
@triton.jit(do_not_specialize=["S", "n_head"])
def _kernel(
    q_ptr,  # (B, C), rows q_stride apart
    k_ptr,  # (B, S, C)
    v_ptr,  # (B, S, C)
    y_ptr,  # (B, C), written
    lengths_ptr,  # (B,), int64: each row's keys; or None: all have S
    S,  # keys
    n_head,
    q_stride,  # strides are in elements
    k_batch_stride,
    k_row_stride,
    v_batch_stride,
    v_row_stride,
    SCALE_LOG2: tl.constexpr,  # log2(e)/√D
    HEAD: tl.constexpr,  # D
    HEAD_BLOCK: tl.constexpr,  # D, padded to a power of two
    K_BLOCK: tl.constexpr,  # keys of one iteration
):
    batch = (tl.program_id(0) // n_head).to(tl.int64)
    columns = tl.arange(0, HEAD_BLOCK)
    in_head = columns < HEAD
    head_start = tl.program_id(0) % n_head * HEAD
    query = tl.load(q_ptr + batch * q_stride + head_start + columns, mask=in_head, other=0.0)
    query = query.to(tl.float32) * SCALE_LOG2
    k_base = k_ptr + batch * k_batch_stride + head_start
    v_base = v_ptr + batch * v_batch_stride + head_start

    if lengths_ptr is not None:
        S = tl.load(lengths_ptr + batch).to(tl.int32)
    acc = tl.zeros((HEAD_BLOCK,), tl.float32)
    largest = tl.full((), -1.0e30, tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, S, K_BLOCK):
        rows = (start + tl.arange(0, K_BLOCK)).to(tl.int64)
        mask = (rows < S)[:, None] & in_head[None, :]
        keys = tl.load(k_base + rows[:, None] * k_row_stride + columns[None, :], mask, 0.0)
        values = tl.load(v_base + rows[:, None] * v_row_stride + columns[None, :], mask, 0.0)
        scores = tl.sum(keys.to(tl.float32) * query[None, :], 1)
        scores = tl.where(rows < S, scores, -1.0e30)
        new_largest = tl.maximum(largest, tl.max(scores, 0))
        p = tl.exp2(scores - new_largest)
        rescale = tl.exp2(largest - new_largest)
        acc = acc * rescale + tl.sum(values.to(tl.float32) * p[:, None], 0)
        total = total * rescale + tl.sum(p, 0)
        largest = new_largest
    out = y_ptr + batch * n_head * HEAD + head_start + columns
    tl.store(out, (acc / total).to(y_ptr.dtype.element_ty), mask=in_head)


# --- launcher and registration --------------------------------------------------------------------


@operator("decode_attention")
def _decode_attention(
    q: Tensor, k: Tensor, v: Tensor, n_head: int, lengths: Tensor | None = None
) -> Tensor:
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    B, S, C = k.shape
    y = q.new_empty(B, 1, C)
    if y.numel() == 0:
        return y
    size = launch.head_class(C // n_head)
    tile = launch.find("decode_attention", size, q)
    with torch.cuda.device_of(q):
        _kernel[(B * n_head,)](
            q, k, v, y, lengths, S, n_head, q.stride(0), *k.stride()[:2], *v.stride()[:2],
            SCALE_LOG2=math.log2(math.e) / math.sqrt(C // n_head), HEAD=C // n_head,
            HEAD_BLOCK=size, K_BLOCK=tile.columns, **tile.options,
        )  # fmt: skip
    return y


@fake(_decode_attention)
def _(q: Tensor, k: Tensor, v: Tensor, n_head: int, lengths: Tensor | None = None) -> Tensor:
    return q.new_empty(q.shape)


# --- public function ------------------------------------------------------------------------------


def decode_attention(
    q: Tensor, k: Tensor, v: Tensor, n_head: int, lengths: Tensor | None = None
) -> Tensor:
    """Attention of the newest position; see `pygpt.ops.decode_attention`, the contract.

    Args:
        q: (B, 1, C) in fp32, fp16 or bf16.
        k: (B, S, C), S ≥ 1, in q's dtype; may be a view of a longer buffer.
        v: (B, S, C), likewise.
        n_head: heads; the head size C / n_head is at most 128.
        lengths: (B,), contiguous int64, from 1 to S: each row's keys; None for S.

    Returns:
        (B, 1, C), in q's dtype.

    Raises:
        ValueError: another dtype, a larger head, or no keys.
    """
    check_dtypes("decode_attention", q=q, k=k, v=v)
    launch.head_class(q.size(2) // n_head)
    if k.size(1) == 0:
        raise ValueError("decode_attention: k holds no positions, not even the new one")
    y: Tensor = _decode_attention(q, k, v, n_head, lengths)
    return y
