"""Which windows of a dataset make which batch.

The compiled core draws and copies the windows; its source is ``csrc/data/batch_sampler.cpp``.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pygpt import _C
from pygpt.data.dataset import TokenDataset
from pygpt.data.rows import RowSampler, rows_of
from pygpt.utils.errors import check_seed

Buffer = TypeVar("Buffer", torch.Tensor, NDArray[np.int64])


class BatchSampler:
    """Which windows of a dataset make batch k: a pure function of (dataset, seed, step).

    Any step can be asked for at any time and in any order; nothing has to be saved to resume.

    - ``sampling="permutation"``: an epoch visits the split's windows, side by side, in an order
      computed from (seed, epoch), so that every token but those at the two edges is a target once.
      Where the first window starts is drawn for each epoch, so the borders move.
    - ``sampling="random"``: every window starts anywhere, drawn with replacement, as nanoGPT does.

    A split of dialogues has rows of whole dialogues instead of windows, in which the targets that
    the assistant did not write are -1; see `pygpt.data.rows`.

    Several ranks see the same global batch: rank r of w gets its rows r·B/w to (r + 1)·B/w.

    Args:
        dataset: the split to read.
        batch_size: sequences in the global batch B, over all ranks.
        block_size: positions T in a sequence.
        seed: 0 to 2⁶⁴ - 1.
        rank: which part of the batch this process takes.
        world_size: in how many parts the batch is taken.
        sampling: "permutation" or "random".
        read_ahead: while a batch is used, a thread brings the pages of the next step into memory.
            What a batch holds can't depend on it.

    Attributes:
        tokens_per_epoch: targets in one pass over the split.

    Raises:
        InputError: a split shorter than one window, a batch that the ranks can't share evenly, a
            rank outside the world, or an unknown sampling.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        batch_size: int,
        block_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sampling: str = "permutation",
        read_ahead: bool = True,
    ) -> None:
        check_seed(seed)
        options: Any = {"seed": seed, "rank": rank, "world_size": world_size, "sampling": sampling}
        self._core: _C.BatchSampler | RowSampler
        if dataset.loss_mask is None:
            self._core = _C.BatchSampler(dataset.shards, batch_size, block_size, **options)
        else:
            self._core = RowSampler(rows_of(dataset, block_size), batch_size, **options)
        self._dataset = dataset
        self._batch_size = batch_size
        self._shape = (batch_size // world_size, block_size)
        self._read_ahead = read_ahead
        self.tokens_per_epoch = self._core.tokens_per_epoch

    @overload
    def batch(self, step: int, out: None = None) -> tuple[torch.Tensor, torch.Tensor]: ...

    @overload
    def batch(self, step: int, out: tuple[Buffer, Buffer]) -> tuple[Buffer, Buffer]: ...

    def batch(self, step: int, out: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """The inputs and targets of one step.

        Args:
            step: the global batch's number, from 0.
            out: x and y to fill instead of new tensors: CPU tensors (pinned or not) or NumPy
                arrays, int64, C-contiguous, of the shape below.

        Returns:
            x and y, int64, (batch_size / world_size, block_size) each, y one token on; those of
            `out` when it was given.

        Raises:
            InputError: a negative step, or an id beyond the vocabulary in a split that was too
                large to be read at its opening.
            ValueError: `out` does not fit.
        """
        if out is None:
            out = (
                torch.empty(self._shape, dtype=torch.int64),
                torch.empty(self._shape, dtype=torch.int64),
            )
        x, y = out
        inputs, targets = _as_array("x", x), _as_array("y", y)
        self._core.fill(step, inputs, targets, self._read_ahead)
        self._dataset.check_ids(inputs)
        self._dataset.check_ids(targets)
        return x, y

    def read_ahead(self, step: int, n_steps: int) -> None:
        """Have a thread bring the pages of some steps into memory; dialogues have none."""
        if isinstance(self._core, _C.BatchSampler):
            self._core.read_ahead(step, n_steps)

    def targets_per_row(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) targets in each row of the global batch of one step.

        Raises:
            InputError: a negative step.
        """
        if isinstance(self._core, RowSampler):
            return self._core.targets_per_row(step)
        return np.full(self._batch_size, self._shape[1], np.int64)


def _as_array(name: str, buffer: object) -> NDArray[np.int64]:
    """The NumPy face of a caller's buffer; the compiled core checks that it fits."""
    if isinstance(buffer, np.ndarray):
        return buffer
    if not isinstance(buffer, torch.Tensor):
        raise ValueError(
            f"out: {name} must be a torch tensor or a NumPy array and is a {type(buffer).__name__}"
        )
    if buffer.device.type != "cpu":
        raise ValueError(
            f"out: {name} must be in CPU memory and is on {buffer.device}; fill a pinned CPU "
            "tensor and copy it with non_blocking=True"
        )
    array: NDArray[np.int64] = buffer.detach().numpy()
    return array
