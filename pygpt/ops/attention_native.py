"""Causal attention on a CPU: the native implementation of `pygpt.ops.attention`.

The forward is PyTorch's. Its backward, in bf16, reaches an eighth of the rate of the CPU's matrix
products; here it is five batched products of PyTorch's and one pass of C++ between them, from the
queries, keys and values alone:

    s = q·kᵀ,  w = softmax(s/√D),  dw = dy·vᵀ,  ds = w·(dw - Σ w·dw)/√D
    dq = ds·k,  dk = dsᵀ·q,  dv = wᵀ·dy

(Dao et al. 2022, appendix B.2). In other dtypes PyTorch's own backward is as fast, and is taken.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt.ops import native
from pygpt.ops.heads import causal_attention, split_heads

# Scores of the heads that are worked on at once. They take 8 bytes each, with their gradients; at
# 512 positions, 24 heads took 16.4 ms one at a time, 13.2 by twos, 11.6 by fours, 10.5 by eights.
GROUP_SCORES = 1 << 21


def attention(qkv: Tensor, n_head: int, *, level: str = "") -> Tensor:
    """Causal attention from the packed projection; see `pygpt.ops.attention`.

    Args:
        qkv: (B, T, 3·C).
        n_head: heads.
        level: an instruction set of `pygpt.ops.native.levels()`; "" for its `default_level`.
    """
    if qkv.dtype != torch.bfloat16:
        return causal_attention(qkv, n_head)
    y: Tensor = torch.ops.pygpt.attention_native(qkv, n_head, level)
    return y


@torch.library.custom_op("pygpt::attention_native", mutates_args=(), device_types="cpu")
def _attention(qkv: Tensor, n_head: int, level: str) -> Tensor:
    return causal_attention(qkv, n_head).contiguous()


@_attention.register_fake
def _attention_fake(qkv: Tensor, n_head: int, level: str) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.size(2) // 3)


@torch.library.custom_op("pygpt::attention_native_backward", mutates_args=(), device_types="cpu")
def _attention_backward(dy: Tensor, qkv: Tensor, n_head: int, level: str) -> Tensor:
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


@_attention_backward.register_fake
def _attention_backward_fake(dy: Tensor, qkv: Tensor, n_head: int, level: str) -> Tensor:
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


_attention.register_autograd(_backward, setup_context=_setup_context)
