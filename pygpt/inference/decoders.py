"""What computes the logits of a step: a model with a cache of keys and values, row by row.

The engine knows requests and text; a decoder knows rows of a batch and ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pygpt.model import GPT, KVCache


class Decoder(Protocol):
    """Logits of rows that have read different texts."""

    description: str
    """The implementation and the types of weights, for a log."""

    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """Forget what the row has read, read 1 to block_size `ids`; the logits (V,) behind them."""

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Read one further id in each of `rows`, which have room for it; their logits (n, V)."""


class EagerDecoder:
    """The model's own forward, on any device and in any dtype.

    A step computes all rows up to the last one in use: which of PyTorch's matrix products run
    depends on that number, and so does the rounding of the logits.
    """

    def __init__(self, model: GPT, max_batch: int) -> None:
        weight = model.wte.weight
        device = weight.device
        dtype = weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        self._model, self._device = model, device
        self._cache = KVCache(model.config, max_batch, dtype=dtype, device=device)
        self._lengths = [0] * max_batch  # of the rows, known without asking the device
        self.description = f"{str(dtype).removeprefix('torch.')}, {model.impl}"

    @torch.no_grad()
    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """See `Decoder.read`."""
        cache = self._cache.rows(row, row + 1)
        cache.lengths.zero_()
        cache.extent = self._lengths[row] = len(ids)
        hidden = self._model.hidden(torch.tensor([list(ids)], device=self._device), cache)
        return self._model.head(hidden[0, -1]).float()

    @torch.no_grad()
    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See `Decoder.step`."""
        n_rows = max(rows) + 1
        cache = self._cache.rows(0, n_rows)
        # Rows that have no id read a 0 behind what they hold, where their next id will be.
        last = self._model.config.block_size - 1
        cache.lengths.copy_(torch.tensor([min(length, last) for length in self._lengths[:n_rows]]))
        cache.extent = max(self._lengths[row] for row in rows) + 1
        idx = torch.zeros(n_rows, 1, dtype=torch.int64)
        idx[list(rows), 0] = torch.tensor(list(ids))
        hidden = self._model.hidden(idx.to(self._device), cache)
        for row in rows:
            self._lengths[row] += 1
        return self._model.head(hidden[list(rows), -1]).float()
