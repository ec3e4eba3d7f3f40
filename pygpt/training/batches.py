"""The batch of a step on the device, copied through pinned memory to a GPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pygpt.config import TrainConfig
from pygpt.data.mixture import Split, sampler_of
from pygpt.training.ranks import Ranks


class _Staging:
    """Pinned memory of one batch, and the event after its copy to the GPU."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.x, self.y = (torch.empty(shape, dtype=torch.int64, pin_memory=True) for _ in range(2))
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]


class Batches:
    """The batches of a run on its device: each a function of the data, the seed and the step.

    Args:
        train: split to train on.
        config: the run.
        device: where the batches go.
        ranks: that share a batch evenly; None is this process alone.

    Raises:
        InputError: the split is shorter than one window.
    """

    def __init__(
        self, train: Split, config: TrainConfig, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        ranks = ranks or Ranks()
        self._sampler = sampler_of(
            train,
            config.batch_sequences(),
            config.block_size,
            seed=config.seed,
            sampling=config.sampling,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        shape = (config.rank_sequences(ranks.world_size), config.block_size)
        self._ranks = ranks
        self._device = device
        # Two in turn: one is copied to the device while the other is filled.
        self._staging = [_Staging(shape) for _ in range(2)] if device.type == "cuda" else []

    def divisors(self, step: int, micro_batch: int) -> list[float]:
        """What to divide the mean loss of each micro-batch by, to sum to the mean of the step.

        That mean is over all targets of the step, of all ranks, whose losses are averaged. Where
        every position has a target, it is the number of this rank's micro-batches; rows of
        dialogues have different numbers of targets.
        """
        rows = self._sampler.targets_per_row(step)
        mine = np.split(rows, self._ranks.world_size)[self._ranks.rank]
        targets = mine.reshape(-1, micro_batch).sum(axis=1)
        divisors: list[float] = (rows.sum() / self._ranks.world_size / targets).tolist()
        return divisors

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step of this rank, each (sequences, block_size) int64."""
        if not self._staging:
            x, y = self._sampler.batch(step)
            return x, y
        staging = self._staging[step % 2]
        staging.copied.synchronize()
        self._sampler.batch(step, out=(staging.x, staging.y))
        x, y = (part.to(self._device, non_blocking=True) for part in (staging.x, staging.y))
        staging.copied.record()
        return x, y
