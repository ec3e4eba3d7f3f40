"""The heads of a packed projection: apart, together again, and PyTorch's attention over them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """(B, T, C) as (B, n_head, T, D), a view."""
    sizes = (*x.shape[:2], n_head, x.size(2) // n_head)
    return x.view(sizes).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, n_head, T, D) as (B, T, C)."""
    return x.transpose(1, 2).flatten(2)


def causal_attention(qkv: Tensor, n_head: int, dropout: float = 0.0) -> Tensor:
    """PyTorch's own: the eager `pygpt.ops.attention`, and the native one's forward."""
    q, k, v = (split_heads(part, n_head) for part in qkv.chunk(3, dim=2))
    return merge_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True))
