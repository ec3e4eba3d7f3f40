"""Causal attention of a sequence, and of one new position while decoding.

`_reference` is PyTorch's `scaled_dot_product_attention`. The Triton kernels are
``pygpt.kernels.attention`` and ``pygpt.kernels.decode_attention``. The native implementation, for
a CPU and bf16, is the last section of this file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt.kernels.registration import differentiable, fake, operator
from pygpt.ops import native
from pygpt.ops.checks import check_same_device
from pygpt.ops.dispatch import choose, notice_dropout

# Scores of the heads that are worked on at once. They take 8 bytes each, with their gradients; at
# 512 positions, 24 heads took 16.4 ms one at a time, 13.2 by twos, 11.6 by fours, 10.5 by eights.
GROUP_SCORES = 1 << 21


def attention(qkv: Tensor, n_head: int, *, dropout: float = 0.0, impl: str = "auto") -> Tensor:
    """Causal softmax attention of every head: softmax(q·kᵀ/√D + mask)·v.

    Vaswani et al. 2017, equation 1, with the causal mask of GPT-2.

    Args:
        qkv: (B, T, 3·C), the packed projection: queries, keys, values, heads side by side in each.
        n_head: heads; the head size is D = C / n_head.
        dropout: probability of dropping an attention weight, below 1. Which ones follows from
            torch's random numbers: triton draws a seed, eager a mask, and native has no dropout.
        impl: see `pygpt.ops`.

    Returns:
        (B, T, C), in qkv's dtype.

    Raises:
        ValueError: wrong rank, a last dimension that is not 3·n_head·D, or another dropout.
    """
    if qkv.dim() != 3:
        raise ValueError(f"attention: qkv must be (B, T, 3·C), got {tuple(qkv.shape)}")
    if n_head < 1 or qkv.size(2) % (3 * n_head) != 0 or qkv.size(2) == 0:
        raise ValueError(
            f"attention: qkv's last dimension {qkv.size(2)} is not 3 × {n_head} heads × head size"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"attention: dropout must be in [0, 1), got {dropout}")
    head_size = qkv.size(2) // (3 * n_head)
    chosen = choose("attention", impl, qkv.device, qkv.dtype, head_size)
    if chosen == "native" and dropout > 0.0:
        notice_dropout()
        chosen = "eager"
    if chosen == "eager":
        return _reference(qkv, n_head, dropout)
    if chosen == "native":
        return attention_native(qkv, n_head)
    from pygpt.kernels.attention import attention as attention_triton

    seed = torch.randint(2**62, (1,), device=qkv.device) if dropout > 0.0 else None
    y: Tensor = attention_triton(qkv, n_head, dropout, seed)
    return y


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n_head: int,
    lengths: Tensor | None = None,
    *,
    impl: str = "auto",
) -> Tensor:
    """Attention of the newest position alone over all keys so far: a step of cached decoding.

    Args:
        q: (B, 1, C), the new position's queries.
        k: (B, S, C), the keys of all positions up to the new one, which is the last.
        v: (B, S, C), their values.
        n_head: heads.
        lengths: (B,), int64: each row's keys that count, from 1 to S; None for all S.
        impl: see `pygpt.ops`.

    Returns:
        (B, 1, C).

    Raises:
        ValueError: shapes that disagree.
    """
    if q.dim() != 3 or q.size(1) != 1:
        raise ValueError(f"decode_attention: q is (B, 1, C), got {tuple(q.shape)}")
    if k.shape != v.shape or k.dim() != 3 or (k.size(0), k.size(2)) != (q.size(0), q.size(2)):
        raise ValueError(
            f"decode_attention: k {tuple(k.shape)} and v {tuple(v.shape)} don't fit q "
            f"{tuple(q.shape)}"
        )
    if n_head < 1 or q.size(2) % n_head != 0:
        raise ValueError(f"decode_attention: {q.size(2)} channels, {n_head} heads")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"decode_attention: q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; they must agree"
        )
    if lengths is not None and (lengths.shape != q.shape[:1] or lengths.dtype != torch.int64):
        raise ValueError(
            f"decode_attention: lengths must be ({q.size(0)},) and int64, and is "
            f"{tuple(lengths.shape)} and {lengths.dtype}"
        )
    check_same_device("decode_attention", q, k, v)
    if choose("attention", impl, q.device, q.dtype, q.size(2) // n_head) == "triton":
        from pygpt.kernels.decode_attention import decode_attention as decode_attention_triton

        y: Tensor = decode_attention_triton(q, k, v, n_head, lengths)
        return y
    mask = None
    if lengths is not None:
        seen = torch.arange(k.size(1), device=k.device) < lengths[:, None]
        mask = seen[:, None, None, :]
    q, k, v = (split_heads(part, n_head) for part in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


# --- reference ------------------------------------------------------------------------------------


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """(B, T, C) as (B, n_head, T, D), a view."""
    sizes = (*x.shape[:2], n_head, x.size(2) // n_head)
    return x.view(sizes).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, n_head, T, D) as (B, T, C)."""
    return x.transpose(1, 2).flatten(2)


def _reference(qkv: Tensor, n_head: int, dropout: float = 0.0) -> Tensor:
    """The reference, PyTorch's own; also the forward of the native implementation."""
    q, k, v = (split_heads(part, n_head) for part in qkv.chunk(3, dim=2))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True))


# --- native, on a CPU -----------------------------------------------------------------------------
# The forward is PyTorch's. PyTorch's backward in bf16 reaches an eighth of the rate of the CPU's
# matrix products. This one is five batched products of PyTorch and one C++ pass between them,
# computed from the queries, keys and values alone (Dao et al. 2022, appendix B.2):
#
#     s = q·kᵀ,  w = softmax(s/√D),  dw = dy·vᵀ,  ds = w·(dw - Σ w·dw)/√D
#     dq = ds·k,  dk = dsᵀ·q,  dv = wᵀ·dy


def attention_native(qkv: Tensor, n_head: int, *, level: str = "") -> Tensor:
    """The native implementation; see `attention`, the contract.

    In dtypes other than bf16 PyTorch's own backward is as fast, and is used.

    Args:
        qkv: (B, T, 3·C).
        n_head: heads.
        level: an instruction set of `pygpt.ops.native.levels()`; "" for its `default_level`.
    """
    if qkv.dtype != torch.bfloat16:
        return _reference(qkv, n_head)
    y: Tensor = torch.ops.pygpt.attention_native(qkv, n_head, level)
    return y


@operator("attention_native", "CPU")
def _native(qkv: Tensor, n_head: int, level: str) -> Tensor:
    return _reference(qkv, n_head).contiguous()


@fake(_native)
def _native_fake(qkv: Tensor, n_head: int, level: str) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.size(2) // 3)


@operator("attention_native_backward", "CPU")
def _native_backward(dy: Tensor, qkv: Tensor, n_head: int, level: str) -> Tensor:
    """The gradient of qkv, packed as it is."""
    n_positions = qkv.size(1)
    # (B·H, T', D): T' is T rounded up, with zeros behind the end. No query sees those keys, and
    # those queries have no gradient to give.
    padding = -n_positions % native.ATTENTION_POSITIONS
    q, k, v = (_by_head(part, n_head, padding) for part in qkv.chunk(3, dim=2))
    dy = _by_head(dy, n_head, padding)
    dq, dk, dv = gradients = [torch.empty_like(q) for _ in range(3)]
    group = heads_at_once(n_positions)
    # The operator runs inside the caller's autocast, which must not touch these products.
    with torch.autocast("cpu", enabled=False):
        for start in range(0, q.size(0), group):
            heads = slice(start, start + group)
            operands = q[heads], k[heads], v[heads], dy[heads]
            _backward_of_heads(*operands, dq[heads], dk[heads], dv[heads], level)
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    for part, gradient in zip(
        split_heads(dqkv, 3 * n_head).chunk(3, dim=1), gradients, strict=True
    ):
        part.copy_(gradient[:, :n_positions].view(part.shape))
    return dqkv


def heads_at_once(n_positions: int) -> int:
    """Heads whose scores are in memory together in the backward."""
    return max(1, GROUP_SCORES // max(n_positions, 1) ** 2)


@fake(_native_backward)
def _native_backward_fake(dy: Tensor, qkv: Tensor, n_head: int, level: str) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _backward_of_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dy: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    level: str,
) -> None:
    """Write dq, dk and dv of a group of heads; all operands are (heads, T', D)."""
    with _exact_products_of_bfloat16():
        scores = torch.bmm(q.float(), k.float().mT)
    gradient = torch.bmm(dy, v.mT)
    weights = torch.empty_like(gradient)
    scale = 1 / math.sqrt(q.size(2))
    native.attention_backward_rows(scores, weights, gradient, scale=scale, level=level)
    torch.bmm(gradient, k, out=dq)
    torch.bmm(gradient.mT, q, out=dk)
    torch.bmm(weights.mT, dy, out=dv)


@contextlib.contextmanager
def _exact_products_of_bfloat16() -> Iterator[None]:
    """Multiply fp32 matrices that hold bf16 numbers by the CPU's bf16 instructions.

    Products of bf16 numbers are exact in fp32 and summed there: nothing is lost, and it takes half
    the time. The scores have to stay fp32: a large one, rounded to bf16, is wrong by more than all
    that bf16 loses elsewhere.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _by_head(x: Tensor, n_head: int, padding: int) -> Tensor:
    """(B, T, C) as (B·n_head, T + padding, D), dense, zeros behind T."""
    x = split_heads(x, n_head).flatten(0, 1)
    return F.pad(x, (0, 0, 0, padding)) if padding else x.contiguous()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, ctx.n_head, ctx.level = inputs
    ctx.save_for_backward(qkv)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "attention: the native implementation has no second derivative (create_graph=True); "
            "take impl='eager'"
        )
    (qkv,) = ctx.saved_tensors
    dqkv = torch.ops.pygpt.attention_native_backward(dy, qkv, ctx.n_head, ctx.level)
    return dqkv, None, None


differentiable(_native, _backward, _setup_context)
