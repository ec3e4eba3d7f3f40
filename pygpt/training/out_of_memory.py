"""Recovers from out-of-memory: what to do again, and the next smaller micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def retry(compute: Callable[[], T], shrink: Callable[[str], None]) -> T:
    """Return `compute()`; after each out-of-memory error call `shrink` and try again.

    Args:
        compute: can be repeated: what it changed before it failed, `shrink` undoes.
        shrink: is given the error's first line; raises where nothing smaller is left.
    """
    while True:
        try:
            return compute()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # After the handler: the exception refers to frames, and those to tensors.
        shrink(reason)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch (by its type) or Triton (by its text) ran out of the device's memory."""
    return isinstance(error, torch.OutOfMemoryError) or "CUDA]: out of memory" in str(error)


def smaller_micro_batch(sequences: int, micro_batch: int) -> int:
    """The largest divisor of `sequences` that is at most half of `micro_batch`, which is > 1."""
    return max(n for n in range(1, micro_batch // 2 + 1) if sequences % n == 0)
