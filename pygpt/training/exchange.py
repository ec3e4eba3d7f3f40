"""Memory that the processes of one machine share: weights, gradients, and the batch of a step.

It has no name in any file system: it goes when the last process that maps it is gone, however that
ended.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import os
import tempfile
from collections.abc import Sequence

import torch

ALIGNMENT = 64
"""Bytes: of a cache line, and of the widest vector."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the shared tensors are made from, in every process alike. It can be written as JSON."""

    parameters: Sequence[Sequence[int]]
    """Shapes of the model's parameters, in their order."""
    workers: int
    """Processes that hand over gradients."""
    batch: Sequence[int]
    """(sequences, block_size) of a step."""
    matrices: int
    """Elements of the matrices that a worker orthogonalises at once, for Muon."""
    matrix_dtype: str
    """Name of their dtype."""

    def tensors(self) -> list[tuple[torch.Size, torch.dtype]]:
        """Shape and dtype of each tensor, in the order in which they lie in memory."""
        floats = [*self.parameters] * (1 + self.workers) + [[self.workers]]
        return [
            *((torch.Size(shape), torch.float32) for shape in floats),
            *((torch.Size(self.batch), torch.int64) for _ in range(2)),
            (torch.Size((self.workers, self.matrices)), getattr(torch, self.matrix_dtype)),
        ]

    def nbytes(self) -> list[int]:
        """Of each tensor, with the gap behind it."""
        sizes = (shape.numel() * dtype.itemsize for shape, dtype in self.tensors())
        return [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]


class Exchange:
    """Tensors in one shared mapping.

    Args:
        file: descriptor of the memory, from `create_memory`.
        sizes: the same in every process.

    Attributes:
        weights: the parameters, fp32. One process writes them, between the steps.
        gradients: fp32 gradients of all parameters, for each worker.
        losses: (workers,) fp32: the loss that belongs to them.
        inputs: ids of the step, (sequences, block_size), int64.
        targets: ids that follow them, -1 where there is none.
        matrices: (workers, elements): to orthogonalise, then what became of them.
    """

    def __init__(self, file: int, sizes: Sizes) -> None:
        memory = mmap.mmap(file, sum(sizes.nbytes()))
        offsets = itertools.accumulate(sizes.nbytes(), initial=0)
        tensors = iter(
            torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=offset).view(shape)
            for (shape, dtype), offset in zip(sizes.tensors(), offsets, strict=False)
        )
        n = len(sizes.parameters)
        self.weights = list(itertools.islice(tensors, n))
        self.gradients = [list(itertools.islice(tensors, n)) for _ in range(sizes.workers)]
        self.losses, self.inputs, self.targets, self.matrices = tensors


def create_memory(sizes: Sizes) -> int:
    """An open file for the tensors, to be inherited by the workers.

    Pages that nobody has written take no memory.
    """
    if hasattr(os, "memfd_create"):  # Linux; /dev/shm is small in many containers
        file = os.memfd_create("pygpt")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, sum(sizes.nbytes()))
    return file
