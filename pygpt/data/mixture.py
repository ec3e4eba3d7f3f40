"""Batches from several datasets, in given proportions: a pure function of the step.

The rows of a global batch are dealt to the datasets by largest deficit: row k (counted over all
steps) goes to the dataset whose share k·weight is furthest ahead of the rows that it got. So the
proportions hold at every moment to within one row, nothing is drawn, and any step can be computed
by itself, because after each period of rows all datasets got exactly their share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pygpt.config.data_parts import DataPart
from pygpt.data.dataset import TokenDataset
from pygpt.data.sampler import BatchSampler, Buffer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

# Weights are rounded to this part of the whole, which bounds the period of the rows.
_RESOLUTION = 1000


class Mixture:
    """One split of several datasets, with their shares; for several what `TokenDataset` is for one.

    Args:
        datasets: with one tokenizer.
        weights: one for each dataset; they need not sum to 1.

    Attributes:
        datasets: as given.
        shares: the weights as parts of 1, to one thousandth.
        names: one for each dataset: the last part of its path, or the path where two end alike.
        split: the first dataset's.
        tokenizer: whose ids these are.
        checksum: of all ids and shares.

    Raises:
        InputError: other weights than one positive number for each dataset, or datasets of
            different tokenizers.
    """

    def __init__(self, datasets: Sequence[TokenDataset], weights: Sequence[float]) -> None:
        self.datasets = tuple(datasets)
        self.shares = _shares(datasets, weights)
        self.split = datasets[0].split
        self.tokenizer = _common_tokenizer(datasets)
        names = [dataset.path.resolve().name for dataset in datasets]
        unique = len(set(names)) == len(names)
        self.names = names if unique else [str(dataset.path) for dataset in datasets]
        described = (f"{d.checksum} {s}" for d, s in zip(datasets, self.shares, strict=True))
        self.checksum = hashlib.sha256("\n".join(described).encode()).hexdigest()

    def __len__(self) -> int:
        """Ids in all of the datasets."""
        return sum(map(len, self.datasets))

    def __str__(self) -> str:
        """Paths and shares."""
        shares = zip(self.datasets, self.shares, strict=True)
        return ", ".join(f"{dataset.path} ({float(share):.1%})" for dataset, share in shares)


Split: TypeAlias = TokenDataset | Mixture
"""What a run trains or is evaluated on."""


def parts_of(split: Split) -> list[tuple[TokenDataset, Fraction]]:
    """The datasets of a split with their shares; a dataset alone has the share 1."""
    if isinstance(split, Mixture):
        return list(zip(split.datasets, split.shares, strict=True))
    return [(split, Fraction(1))]


def open_split(parts: Sequence[DataPart], split: str, tokenizer: str | None = None) -> Split:
    """A split of one dataset, or of several as a `Mixture`.

    Args:
        parts: paths and weights, one at least.
        split: "train", "val" or another split that each has.
        tokenizer: see `TokenDataset`.

    Raises:
        InputError: see `TokenDataset` and `Mixture`.
    """
    datasets = [TokenDataset(part.path, split, tokenizer=tokenizer) for part in parts]
    return datasets[0] if len(parts) == 1 else Mixture(datasets, [part.weight for part in parts])


class MixtureSampler:
    """Which windows of a mixture make batch k; the interface of `BatchSampler`.

    Args:
        mixture: the datasets and their shares of the rows.
        batch_size: sequences in the global batch B, over all ranks.
        block_size: positions T in a sequence.
        seed: see `BatchSampler`; dataset i is shuffled by seed + i.
        rank: which part of the batch this process takes.
        world_size: in how many parts the batch is taken.
        sampling: see `BatchSampler`.
        read_ahead: see `BatchSampler`.

    Attributes:
        tokens_per_epoch: targets until the dataset that is used up first, for its weight, was seen
            once.

    Raises:
        InputError: what `BatchSampler` refuses.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        block_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sampling: str = "permutation",
        read_ahead: bool = True,
    ) -> None:
        if not 0 <= rank < world_size or batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"rank {rank} of {world_size} can't take an equal part of {batch_size} sequences"
            )
        # One row at a time: row r of a dataset is its "step" r, whatever batch it falls into.
        self._samplers = [
            BatchSampler(
                dataset,
                1,
                block_size,
                seed=(seed + at) % 2**64,
                sampling=sampling,
                read_ahead=False,  # of one row; `batch` asks for those of a batch
            )
            for at, dataset in enumerate(mixture.datasets)
        ]
        self._read_ahead = read_ahead
        self._pattern, self._before = _deal(mixture.shares)
        self._batch_size = batch_size
        self._rows = batch_size // world_size
        self._first = rank * self._rows
        self._block_size = block_size
        self.tokens_per_epoch = min(
            int(sampler.tokens_per_epoch / share)
            for sampler, share in zip(self._samplers, mixture.shares, strict=True)
        )

    @overload
    def batch(self, step: int, out: None = None) -> tuple[torch.Tensor, torch.Tensor]: ...

    @overload
    def batch(self, step: int, out: tuple[Buffer, Buffer]) -> tuple[Buffer, Buffer]: ...

    def batch(self, step: int, out: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """The inputs and targets of one step; see `BatchSampler.batch`."""
        if step < 0:
            raise InputError(f"step must be 0 or more, got {step}")
        if out is None:
            shape = (self._rows, self._block_size)
            out = torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.int64)
        x, y = out
        if len(x) != self._rows or len(y) != self._rows:
            raise ValueError(f"out: x and y must have {self._rows} rows, got {len(x)} and {len(y)}")
        start = step * self._batch_size + self._first
        if self._read_ahead:
            first = start + self._batch_size
            counts = zip(
                self._rows_before(first), self._rows_before(first + self._rows), strict=True
            )
            for sampler, (begin, end) in zip(self._samplers, counts, strict=True):
                sampler.read_ahead(begin, end - begin)
        for row in range(self._rows):
            dataset, number = self._locate(start + row)
            self._samplers[dataset].batch(number, (x[row : row + 1], y[row : row + 1]))
        return x, y

    def targets_per_row(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) targets in each row of the global batch of one step."""
        start = step * self._batch_size
        located = map(self._locate, range(start, start + self._batch_size))
        counts = [self._samplers[dataset].targets_per_row(n)[0] for dataset, n in located]
        return np.array(counts, np.int64)

    def source_of(self, step: int) -> list[int]:
        """The dataset of each row of this rank's batch, as indices."""
        start = step * self._batch_size + self._first
        return [self._locate(start + row)[0] for row in range(self._rows)]

    def _locate(self, row: int) -> tuple[int, int]:
        """The dataset of a row, and how many rows that dataset had before it."""
        dataset = int(self._pattern[row % len(self._pattern)])
        return dataset, self._rows_before(row)[dataset]

    def _rows_before(self, row: int) -> list[int]:
        """How many rows each dataset has before one."""
        period, at = divmod(row, len(self._pattern))
        counts: list[int] = (period * self._before[-1] + self._before[at]).tolist()
        return counts


def _common_tokenizer(datasets: Sequence[TokenDataset]) -> TokenizerInfo:
    """The tokenizer of all; of dialogues and plain text, that of the dialogues."""
    common = next((d.tokenizer for d in datasets if d.tokenizer.chat), datasets[0].tokenizer)
    for dataset in datasets:
        if not common.extends(dataset.tokenizer):
            raise InputError(
                f"{dataset.path} has the tokenizer {dataset.tokenizer.name!r} and another part has "
                f"{common.name!r}: their ids differ; prepare one of them again"
            )
    return common


def _shares(datasets: Sequence[TokenDataset], weights: Sequence[float]) -> list[Fraction]:
    """Weights as parts of 1, to one thousandth."""
    if len(weights) != len(datasets) or not datasets:
        raise InputError(f"{len(datasets)} datasets need as many weights, got {len(weights)}")
    for weight in weights:
        if not 0 < weight < math.inf:
            raise InputError(f"a weight must be a positive number, got {weight}")
    total = math.fsum(weights)
    parts = [round(_RESOLUTION * weight / total) for weight in weights]
    if 0 in parts:
        raise InputError(
            f"{datasets[parts.index(0)].path} has less than 1/{_RESOLUTION} of the weight; leave "
            "it out, or give it more"
        )
    return [Fraction(part, sum(parts)) for part in parts]


def _deal(shares: Sequence[Fraction]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Deal the rows of one period to the datasets, each its share as evenly as can be.

    Returns:
        The dataset of each row, (period,), and how many rows each dataset had before each row,
        (period + 1, datasets).
    """
    period = math.lcm(*(share.denominator for share in shares))
    given = [0] * len(shares)
    pattern = np.empty(period, np.intp)
    before = np.zeros((period + 1, len(shares)), np.intp)
    for row in range(period):
        deficits = [share * (row + 1) - had for share, had in zip(shares, given, strict=True)]
        pattern[row] = dataset = deficits.index(max(deficits))
        given[dataset] += 1
        before[row + 1] = given
    return pattern, before


def sampler_of(
    split: Split,
    batch_size: int,
    block_size: int,
    **options: Any,
) -> BatchSampler | MixtureSampler:
    """The sampler of a split; see `BatchSampler` for the options."""
    if isinstance(split, Mixture):
        return MixtureSampler(split, batch_size, block_size, **options)
    return BatchSampler(split, batch_size, block_size, **options)
