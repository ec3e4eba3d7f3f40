"""Saves checkpoints while training goes on: a copy in memory, which a thread writes to the disk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from pygpt.planning.hardware import free_memory
from pygpt.runs import checkpoint
from pygpt.runs.checkpoint import Content
from pygpt.runs.run import AVERAGE, Run
from pygpt.training.ranks import JoinedRanks, Ranks
from pygpt.utils.format import gib

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


class Saver:
    """Writes the checkpoints of a run, at most one at a time.

    A crash leaves the checkpoint that is being written unfinished under another name, and all older
    ones whole (`pygpt.utils.files.replacing`).

    Args:
        run: the directory.
        keep: newest checkpoints to keep.
        ranks: of which rank 0 writes, or all where they hold slices.
        slices: whether every rank holds slices of the weights and of the optimizer's state.
    """

    def __init__(self, run: Run, keep: int, ranks: Ranks, *, slices: bool = False) -> None:
        self._run = run
        self._keep = keep
        self._ranks = ranks
        self._slices = slices
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[Path] | None = None
        self._written: list[Path] = []
        self._copy = _sliced_copy() if slices else _copy
        self._announced = False

    def save(self, content: Content) -> None:
        """Copy a checkpoint's tensors and start to write it, after the one before is written.

        Where there is no memory for the copy, it is written before this returns.

        Raises:
            InputError: the one before could not be written.
        """
        self.wait()
        if not (self._slices or self._ranks.is_main):
            return
        free = free_memory(CPU).free
        fits = not self._ranks.any(content.nbytes > free) if self._slices else content.nbytes < free
        if fits:
            self._writing = self._thread.submit(self._write, self._copy(content))
            return
        if not self._announced:
            logger.warning(
                "a copy of a checkpoint takes %s and %s are free: training waits for the disk",
                gib(content.nbytes),
                gib(free),
            )
            self._announced = True
        self._written.append(self._write(content))

    def written(self) -> list[Path]:
        """The checkpoints that were finished since the last call.

        Raises:
            InputError: one could not be written.
        """
        if self._writing and self._writing.done():
            self.wait()
        written, self._written = self._written, []
        return written

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            InputError: it could not be written.
        """
        if self._writing:
            writing, self._writing = self._writing, None
            self._written.append(writing.result())

    def close(self) -> None:
        """Wait, and end the thread; an error of the checkpoint is left to the log."""
        try:
            self.wait()
        except Exception as error:
            logger.error("%s", error)
        self._thread.shutdown()

    def _write(self, content: Content) -> Path:
        if self._slices:
            self._write_slices(content)
        else:
            checkpoint.write(self._run.checkpoints, content)
        if self._ranks.is_main:
            with self._run.writing():
                checkpoint.prune(self._run.checkpoints, self._keep)
        return checkpoint.path_of(self._run.checkpoints, content.state.step)

    def _write_slices(self, content: Content) -> None:
        """All ranks write their slices; rank 0 then makes ``model.safetensors`` of the weights'."""
        from pygpt.runs import sharded

        group = cast(JoinedRanks, self._ranks).checkpoint_group
        parts = {"weights": content.weights, checkpoint.OPTIMIZER_SLICES: content.optimizer}
        if content.average:
            parts["averages"] = content.average

        def save(partial: Path) -> None:
            for name, tensors in parts.items():
                sharded.save(tensors, partial / name, group)

        if not self._ranks.is_main:
            save(_shared(None, group))
            return
        with checkpoint.writing(self._run.checkpoints, content.state.step) as partial:
            for name in parts:
                (partial / name).mkdir()
            save(_shared(partial, group))
            for name, final in (("weights", partial), ("averages", partial / AVERAGE)):
                if name in parts:
                    whole = sharded.whole_weights(parts[name], partial / name)
                    shutil.rmtree(partial / name)
                    checkpoint.write_model(final, content, whole)


def _copy(content: Content) -> Content:
    """With copies of the tensors on the CPU, which stay as they are while training goes on."""
    groups = {"weights": content.weights, "optimizer": content.optimizer}
    groups["average"] = content.average
    copies = {
        field: {name: _to_cpu(tensor) for name, tensor in tensors.items()}
        for field, tensors in groups.items()
    }
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return dataclasses.replace(content, **cast(dict[str, Any], copies))


def _to_cpu(tensor: Tensor) -> Tensor:
    """Start to copy, through pinned memory from a GPU."""
    copy = torch.empty_like(tensor, device=CPU, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def _sliced_copy() -> Callable[[Content], Content]:
    """As `_copy`, for slices."""
    from pygpt.runs.sharded import Copier

    copier = Copier()

    def copy(content: Content) -> Content:
        groups = {"weights": content.weights, "optimizer": content.optimizer}
        groups["average"] = content.average
        copied = copier.copy(groups)
        return dataclasses.replace(content, **cast(dict[str, Any], copied))

    return copy


def _shared(path: Path | None, group: dist.ProcessGroup) -> Path:
    """The path that rank 0 gives, on every rank."""
    values = [path]
    dist.broadcast_object_list(values, src=0, group=group)
    return cast(Path, values[0])
