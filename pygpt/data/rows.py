"""Dialogues as rows of a batch: packed without crossing a row's border, with masked targets.

A row holds whole dialogues and padding. Which dialogues share a row is found by best-fit decreasing
(Johnson 1974; for language models Ding et al. 2024): the longest dialogue first, each into the
fullest row that has room. A dialogue longer than a row is cut, and one that has no target in what
is left is left out, so that every row has a target.

Within a row, a dialogue can attend to those before it, as documents do in GPT-2's training.
"""

from __future__ import annotations

import bisect
import functools
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pygpt.utils.errors import InputError

if TYPE_CHECKING:
    from pygpt.data.dataset import TokenDataset

logger = logging.getLogger(__name__)

IGNORED = -1
"""The target of a position that has none."""

_CHUNK_IDS = 1 << 22


class Rows:
    """The rows of a split with a loss mask.

    Args:
        dataset: the split.
        block_size: positions T of a row.

    Attributes:
        n_targets: (n_rows,) targets of each row, 1 or more.
        n_cut: dialogues that lose targets because they are longer than a row.
        n_left_out: dialogues without a target in what a row can hold.

    Raises:
        InputError: no dialogue has a target within T positions.
    """

    def __init__(self, dataset: TokenDataset, block_size: int) -> None:
        assert dataset.loss_mask is not None
        self._dataset, self._mask = dataset, dataset.loss_mask
        self.block_size = block_size
        starts, lengths = _dialogues(dataset)
        written = np.concatenate([[0], np.cumsum(self._mask, dtype=np.int64)])
        kept = np.minimum(lengths, block_size + 1)
        targets = written[starts + kept] - written[starts]
        usable = np.flatnonzero(targets)
        self.n_left_out = len(starts) - len(usable)
        self.n_cut = int((targets < written[starts + lengths] - written[starts])[usable].sum())
        if not usable.size:
            raise InputError(
                f"no dialogue of {dataset.path}, {dataset.split}, has a reply within "
                f"block_size={block_size} tokens; give a larger --block-size"
            )
        self._starts, self._kept = starts, kept
        self._packed = [usable[row] for row in pack(kept[usable], block_size + 1)]
        self.n_targets = np.array([targets[row].sum() for row in self._packed], np.int64)
        self._report(int(kept[usable].sum()))

    def __len__(self) -> int:
        """Rows."""
        return len(self._packed)

    def read(self, row: int, inputs: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Fill the inputs and the targets of one row, (T,) each; a target that is none is -1."""
        ids = np.full(self.block_size + 1, self._dataset.tokenizer.end_of_text, np.int64)
        wanted = np.full(self.block_size + 1, IGNORED, np.int64)
        at = 0
        for dialogue in self._packed[row]:
            start, n = int(self._starts[dialogue]), int(self._kept[dialogue])
            part = slice(at, at + n)
            ids[part] = self._dataset.window(start, n)
            wanted[part] = np.where(self._mask[start : start + n], ids[part], IGNORED)
            at += n
        inputs[:], targets[:] = ids[:-1], wanted[1:]

    def _report(self, n_used: int) -> None:
        lost = [
            f"{n:,} {what}"
            for n, what in (
                (self.n_cut, "dialogues are cut, being longer"),
                (self.n_left_out, "left out, having no reply within it"),
            )
            if n
        ]
        logger.info(
            "%s: %s dialogues in %s rows of %d tokens, %.0f %% full%s",
            self._dataset.split,
            f"{len(self._starts) - self.n_left_out:,}",
            f"{len(self):,}",
            self.block_size,
            100 * n_used / (len(self) * (self.block_size + 1)),
            f"; {', '.join(lost)}" if lost else "",
        )


def tokens_per_epoch(dataset: TokenDataset, block_size: int) -> int:
    """Positions that one pass over a split reads: those of its rows, or its ids."""
    if dataset.loss_mask is None:
        return len(dataset)
    return len(rows_of(dataset, block_size)) * block_size


@functools.lru_cache(maxsize=4)
def rows_of(dataset: TokenDataset, block_size: int) -> Rows:
    """The rows of a split, packed once per process; see `Rows`."""
    return Rows(dataset, block_size)


def pack(lengths: npt.NDArray[np.int64], capacity: int) -> list[Sequence[int]]:
    """Rows of items, by best-fit decreasing.

    Args:
        lengths: (n,), each from 1 to `capacity`.
        capacity: of a row.

    Returns:
        The indices of the items in each row; equal input gives equal rows.
    """
    rows: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # free places → rows
    rooms: list[int] = []  # the keys of `with_room` that have rows, sorted
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del rooms[at]
        rows[row].append(item)
        left = room - length
        if left:
            if not with_room[left]:
                bisect.insort(rooms, left)
            with_room[left].append(row)
    return [*rows]


class RowSampler:
    """Which rows make batch k: a pure function of (rows, seed, step), as `_C.BatchSampler` has it.

    Sample n of a run is a row of epoch n // len(rows), in an order given by hashes of (seed, epoch,
    row); with ``sampling="random"`` any row, by a hash of (seed, n).

    Args:
        rows: of the split.
        batch_size: rows in the global batch B, over all ranks.
        seed: 0 to 2⁶⁴ - 1.
        rank: which part of the batch this process takes.
        world_size: in how many parts the batch is taken.
        sampling: "permutation" or "random".

    Attributes:
        tokens_per_epoch: positions of all rows.

    Raises:
        InputError: a batch that the ranks can't share evenly, a rank outside the world, or an
            unknown sampling.
    """

    def __init__(
        self, rows: Rows, batch_size: int, *, seed: int, rank: int, world_size: int, sampling: str
    ) -> None:
        if not 0 <= rank < world_size or batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"rank {rank} of {world_size} can't take an equal part of {batch_size} rows"
            )
        if sampling not in ("permutation", "random"):
            raise InputError(f"sampling {sampling!r} is none of 'permutation', 'random'")
        self._rows, self._seed, self._random = rows, seed, sampling == "random"
        self._batch_size, self._n = batch_size, batch_size // world_size
        self._first = rank * self._n
        self.tokens_per_epoch = len(rows) * rows.block_size
        self._order = functools.lru_cache(maxsize=2)(self._order_of)

    def fill(
        self,
        step: int,
        inputs: npt.NDArray[np.int64],
        targets: npt.NDArray[np.int64],
        read_ahead: bool,
    ) -> None:
        """Fill this rank's rows of the batch, (B / world_size, T) each; nothing is read ahead."""
        shape = (self._n, self._rows.block_size)
        for name, array in (("x", inputs), ("y", targets)):
            if array.shape != shape or array.dtype != np.int64:
                raise ValueError(
                    f"out: {name} must be int64 {shape} and is {array.dtype} {array.shape}"
                )
        for at, row in enumerate(self._drawn(step)[self._first : self._first + self._n]):
            self._rows.read(row, inputs[at], targets[at])

    def targets_per_row(self, step: int) -> npt.NDArray[np.int64]:
        """(B,) targets of each row of the global batch."""
        counts: npt.NDArray[np.int64] = self._rows.n_targets[self._drawn(step)]
        return counts

    def _drawn(self, step: int) -> list[int]:
        """The rows of the global batch."""
        if step < 0:
            raise InputError(f"step must be 0 or more, got {step}")
        samples = range(step * self._batch_size, (step + 1) * self._batch_size)
        n = len(self._rows)
        if self._random:
            hashes = _hash(self._seed, 0, np.array(samples, np.uint64))
            return [int(value) for value in hashes % np.uint64(n)]
        return [int(self._order(sample // n)[sample % n]) for sample in samples]

    def _order_of(self, epoch: int) -> npt.NDArray[np.intp]:
        hashes = _hash(self._seed, epoch + 1, np.arange(len(self._rows), dtype=np.uint64))
        return np.argsort(hashes, kind="stable")


def _hash(seed: int, stream: int, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64-bit hashes of (seed, stream, each number), by splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # multiplication modulo 2⁶⁴
        key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(stream))
        return _mix(key ^ numbers)


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return mixed


def _dialogues(
    dataset: TokenDataset,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First id and length of each dialogue, its end-of-text included."""
    found = [np.empty(0, np.int64)]
    for start in range(0, len(dataset), _CHUNK_IDS):
        ids = dataset.window(start, min(_CHUNK_IDS, len(dataset) - start))
        found.append(start + np.flatnonzero(ids == dataset.tokenizer.end_of_text))
    stops = np.concatenate(found) + 1
    starts = np.concatenate([[0], stops[:-1]]).astype(np.int64)
    return starts, stops - starts
