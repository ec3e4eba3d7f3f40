"""Loss of a model over a split: in nats per token, as perplexity, and in bits per byte of text."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pygpt.data import TokenDataset
from pygpt.data.rows import Rows, rows_of
from pygpt.model import GPT
from pygpt.tokenizers.base import load_tokenizer
from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Sums over the evaluated targets, and the figures derived from them."""

    nats: float
    tokens: int
    bytes: int
    """UTF-8 bytes of the text that the targets encode."""

    @property
    def loss(self) -> float:
        """Cross-entropy, nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that overflows."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text; comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f} nats/token, perplexity {self.perplexity:.2f}, "
            f"{self.bits_per_byte:.4f} bits/byte"
        )


class Ranks(Protocol):
    """The processes that share an evaluation; see `pygpt.training.ranks`."""

    rank: int
    world_size: int

    def sums(self, *values: float) -> list[float]:
        """The sum over the ranks of each value."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over a split, and the targets that are scored in each.

    Window i holds the targets from i·stride + 1 to i·stride + block_size. In the first window all
    are scored, in each other one the last `stride`: every target is scored once, with at least
    block_size - stride tokens of context.
    """

    block_size: int
    stride: int
    indices: tuple[int | None, ...]
    """None stands for a window without targets, which evens out the shares of several ranks."""

    @classmethod
    def over(
        cls, dataset: TokenDataset, block_size: int, stride: int, max_tokens: int | None
    ) -> Windows:
        """The windows of a whole split, or of about `max_tokens` targets spread evenly over it.

        Raises:
            InputError: the split is shorter than one window, or the stride is out of range.
        """
        if not 1 <= stride <= block_size:
            raise InputError(f"stride must be in [1, block_size={block_size}], got {stride}")
        targets = len(dataset) - 1
        if targets < block_size:
            raise InputError(
                f"the {dataset.split} split has {len(dataset)} tokens and a window needs "
                f"block_size + 1 = {block_size + 1}; use a smaller block_size or more text"
            )
        # The last window may be cut short by the end of the split.
        n_all = 1 + -(-(targets - block_size) // stride)
        n = n_all if max_tokens is None else min(n_all, max(1, max_tokens // stride))
        return cls(block_size, stride, tuple(i * n_all // n for i in range(n)))

    def share(self, rank: int, world_size: int) -> Windows:
        """The windows of one rank: as many on each, so that all call the model equally often."""
        padding = (None,) * (-len(self.indices) % world_size)
        return dataclasses.replace(self, indices=(*self.indices, *padding)[rank::world_size])

    def batches(self, dataset: TokenDataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets (b, block_size), int64; a target that is not scored is -1."""
        for first in range(0, len(self.indices), batch_size):
            rows = [self._row(dataset, i) for i in self.indices[first : first + batch_size]]
            x, y = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
            yield x, y

    def _row(self, dataset: TokenDataset, i: int | None) -> tuple[np.ndarray, np.ndarray]:
        if i is None:
            return np.zeros(self.block_size, np.int64), np.full(self.block_size, -1)
        start = i * self.stride
        ids = dataset.window(start, min(self.block_size + 1, len(dataset) - start))
        missing = self.block_size + 1 - len(ids)
        x = np.pad(ids[:-1], (0, missing))
        y = np.pad(ids[1:], (0, missing), constant_values=-1)
        if i > 0:
            y[: self.block_size - self.stride] = -1
        return x, y


@dataclasses.dataclass(frozen=True)
class DialogueRows:
    """Which rows of a split of dialogues are read: each by itself, without a stride."""

    rows: Rows
    indices: tuple[int | None, ...]
    """None is a row without targets, where ranks have unequal numbers of rows."""

    def share(self, rank: int, world_size: int) -> DialogueRows:
        """The rows of one rank; see `Windows.share`."""
        padding = (None,) * (-len(self.indices) % world_size)
        return DialogueRows(self.rows, (*self.indices, *padding)[rank::world_size])

    def batches(self, dataset: TokenDataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets (b, block_size), int64; what the assistant did not write is -1."""
        for first in range(0, len(self.indices), batch_size):
            chosen = self.indices[first : first + batch_size]
            shape = (len(chosen), self.rows.block_size)
            x, y = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
            for at, row in enumerate(chosen):
                if row is not None:
                    self.rows.read(row, x[at], y[at])
            yield torch.from_numpy(x), torch.from_numpy(y)


def windows_of(
    dataset: TokenDataset, block_size: int, stride: int | None, max_tokens: int | None
) -> Windows | DialogueRows:
    """What an evaluation reads: windows of text, or rows of dialogues.

    Args:
        dataset: the split.
        block_size: tokens a window or row.
        stride: see `evaluate`.
        max_tokens: read about so many positions, spread evenly; all when None.

    Raises:
        InputError: see `Windows.over`; or a stride for dialogues.
    """
    if dataset.loss_mask is None:
        stride = block_size if stride is None else stride
        return Windows.over(dataset, block_size, stride, max_tokens)
    if stride not in (None, block_size):
        raise InputError(
            f"{dataset.path} holds dialogues, which are read as rows of whole ones: leave out "
            "--stride"
        )
    rows = rows_of(dataset, block_size)
    n = len(rows) if max_tokens is None else min(len(rows), max(1, max_tokens // block_size))
    return DialogueRows(rows, tuple(i * len(rows) // n for i in range(n)))


@torch.no_grad()
def evaluate(
    model: GPT,
    dataset: TokenDataset,
    *,
    block_size: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    autocast: contextlib.AbstractContextManager[object] | None = None,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """The loss of `model` on a split. Deterministic: it draws no random numbers.

    Args:
        model: on its device; its training mode is restored afterwards.
        dataset: the split.
        block_size: tokens per window; None is the model's.
        stride: targets scored per window; None is block_size. A smaller stride gives every target
            more context and costs block_size/stride times as much.
        max_tokens: score about this many targets, spread evenly; None is all.
        batch_size: windows per forward pass.
        autocast: context to run the model in.
        progress: called after each batch with the windows done and their number.
        ranks: processes that read a share of the windows each; all get the total.

    Raises:
        InputError: a split shorter than one window, or a stride or block_size out of range.
    """
    block_size = model.config.block_size if block_size is None else block_size
    if not 1 <= block_size <= model.config.block_size:
        raise InputError(
            f"block_size={block_size}, and the model has {model.config.block_size} positions"
        )
    windows = windows_of(dataset, block_size, stride, max_tokens)
    if ranks:
        windows = windows.share(ranks.rank, ranks.world_size)
    id_bytes = load_tokenizer(dataset.tokenizer).token_bytes()
    device = model.wte.weight.device
    nats, tokens, n_bytes, done = 0.0, 0, 0, 0
    was_training = model.training
    model.eval()
    try:
        with autocast or contextlib.nullcontext():
            for x, y in windows.batches(dataset, batch_size):
                loss = model.loss(x.to(device), y.to(device), reduction="none")
                nats += loss.double().sum().item()
                counted = y[y >= 0].numpy()
                tokens += len(counted)
                n_bytes += int(id_bytes[counted].sum())
                done += len(x)
                if progress:
                    progress(done, len(windows.indices))
    finally:
        model.train(was_training)
    if ranks:
        nats, *counts = ranks.sums(nats, tokens, n_bytes)
        tokens, n_bytes = map(round, counts)
    return Evaluation(nats, tokens, n_bytes)
