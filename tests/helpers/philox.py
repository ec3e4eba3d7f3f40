"""Philox4x32 (Salmon et al. 2011, section 3.3) and the mask of attention's dropout, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 7
LOW = 2**32 - 1


def philox4x32(counter: tuple[Tensor, ...], key: tuple[int, int], rounds: int) -> list[Tensor]:
    """Four random 32-bit numbers, in int64, of four counter words (broadcast) and two key words."""
    c = [word.clone() for word in torch.broadcast_tensors(*counter)]
    k = list(key)
    for _ in range(rounds):
        (high0, low0), (high1, low1) = (
            _multiply(word, factor) for word, factor in zip(c[::2], MULTIPLIERS, strict=True)
        )
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(word + step) & LOW for word, step in zip(k, KEY_STEPS, strict=True)]
    return c


def _multiply(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 32 bits of the product of two 32-bit numbers, without overflow."""
    low = (word & 0xFFFF) * factor
    upper = (word >> 16) * factor + (low >> 16)  # the product without its lowest 16 bits
    return upper >> 16, (upper & 0xFFFF) << 16 | low & 0xFFFF


def kept_weights(seed: int, shape: tuple[int, int, int, int], dropout: float) -> Tensor:
    """The mask (B, n_head, T, T), True where a weight is kept."""
    B, n_head, T, _ = shape
    heads = torch.arange(B * n_head)[:, None, None]
    queries, fours = torch.arange(T)[:, None], torch.arange(-(-T // 4))
    counter = (queries, fours, heads, torch.zeros(1, dtype=torch.int64))
    numbers = philox4x32(counter, (seed & LOW, seed >> 32 & LOW), ROUNDS)
    bits = torch.stack(numbers, dim=-1).flatten(-2)[..., :T]
    return (bits >= round(dropout * 2**32)).view(B, n_head, T, T)
