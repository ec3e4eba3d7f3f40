"""A worker of `pygpt.training.workers`: ``python -m pygpt.training.worker``.

It reads what to do from its standard input, a line of JSON each time, writes "done" or what went
wrong to its standard output, and ends when its input ends. All tensors are in shared memory.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

import torch

from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.planning.hardware import keep_freed_memory
from pygpt.training.exchange import Exchange, Sizes
from pygpt.training.muon import newton_schulz


class Worker:
    """Computes micro-batches.

    Args:
        job: of `pygpt.training.workers`.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        keep_freed_memory()
        with torch.device("meta"):
            self._model = GPT(
                GPTConfig(**job["model"]),
                job["impl"],
                checkpoint_activations=job["checkpoint_activations"],
            )
        self._exchange = Exchange(job["file"], Sizes(**job["sizes"]))
        self._index = job["index"]
        self._dtype: torch.dtype = getattr(torch, job["dtype"])
        names = [name for name, _ in self._model.named_parameters()]
        weights = dict(zip(names, self._exchange.weights, strict=True))
        self._model.load_state_dict(weights, assign=True)

    def do(self, do: str, **arguments: Any) -> None:
        """Compute what a line of input says."""
        task = self.compute if do == "compute" else self.orthogonalize
        task(**arguments)

    def compute(self, rows: list[int], length: int, divisor: float) -> None:
        """Loss and gradients of one micro-batch, into the shared memory.

        Args:
            rows: first of the step's sequences, and the one after the last.
            length: tokens of a window.
            divisor: of the mean loss.
        """
        x, y = (
            part[slice(*rows)].view(-1, length)
            for part in (self._exchange.inputs, self._exchange.targets)
        )
        with torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32):
            loss = self._model.loss(x, y) / divisor
        loss.backward()  # type: ignore[no-untyped-call]
        self._exchange.losses[self._index] = loss.detach()
        for parameter, shared in zip(
            self._model.parameters(), self._exchange.gradients[self._index], strict=True
        ):
            assert parameter.grad is not None
            shared.copy_(parameter.grad)
            parameter.grad = None

    def orthogonalize(self, shape: list[int]) -> None:
        """`newton_schulz` of matrices (N, rows, columns) in the shared memory, in their place."""
        memory = self._exchange.matrices[self._index, : math.prod(shape)].view(shape)
        memory.copy_(newton_schulz(memory))


def main() -> None:
    """Work until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    worker: Worker | None = None
    for line in sys.stdin:
        task = json.loads(line)
        try:
            if worker is None:
                worker = Worker(task)
            else:
                worker.do(**task)
        except Exception as error:  # such as out of memory: the other process goes on by itself
            print(f"{type(error).__name__}: {error}".splitlines()[0], file=answers)
            return
        print("done", file=answers)


if __name__ == "__main__":
    main()
