"""Workers: processes of this machine that compute micro-batches of a step, each with one thread.

PyTorch computes an operation with all threads and waits for the slowest, hundreds of times a step.
Of a small model that waiting is a large part of the step; and beside another program, which takes a
thread's core for milliseconds, it is nearly all of it. Workers wait for one another only where a
micro-batch ends.

This process computes micro-batches 0, P, 2P, … of a step, P being the number of processes, and
worker i those at i, i + P, … Gradients are added in the order of the micro-batches. So a step has
the same bits however many workers take part in it: where one has not started yet, or has failed,
this process computes its share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pygpt
from pygpt.model import GPT
from pygpt.planning.memory import MUON_BATCH_ELEMENTS
from pygpt.planning.resolve import ResolvedConfig
from pygpt.training.exchange import Exchange, Sizes, create_memory
from pygpt.training.muon import newton_schulz

logger = logging.getLogger(__name__)


class Workers:
    """The workers of a run.

    Args:
        model: on the CPU. Its weights move into shared memory here; whoever changes them later does
            so in place.
        run: resolved; with `workers` 1 there is none, and nothing is shared.
    """

    def __init__(self, model: GPT, run: ResolvedConfig) -> None:
        self._workers: list[_Worker] = []
        self._turns: list[_Worker | None] = [None]
        self._parameters = list(model.parameters())
        if run.workers > 1:
            self._start_processes(run)

    def _start_processes(self, run: ResolvedConfig) -> None:
        sizes = Sizes(
            parameters=[list(p.shape) for p in self._parameters],
            workers=run.workers - 1,
            batch=(run.rank_sequences, run.config.block_size),
            matrices=max(MUON_BATCH_ELEMENTS, *(p.numel() for p in self._parameters)),
            matrix_dtype="bfloat16" if run.dtype == torch.bfloat16 else "float32",
        )
        file = create_memory(sizes)
        try:
            self._exchange = Exchange(file, sizes)
            for parameter, shared in zip(self._parameters, self._exchange.weights, strict=True):
                parameter.data = shared.copy_(parameter.detach())
            self._threads_before = torch.get_num_threads()
            self._threads = max(1, self._threads_before // run.workers)
            job = _job(run, sizes, file)
            self._workers = [_Worker(i, job, file, self._threads) for i in range(sizes.workers)]
        finally:
            os.close(file)

    def pids(self) -> list[int]:
        """Of the workers that have started and would take part in a step now."""
        return [worker.pid for worker in self._workers if worker.is_ready()]

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Context of a training step: PyTorch leaves the other cores to the workers."""
        if not self._workers:
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads_before)

    def start(self, x: Tensor, y: Tensor, divisors: list[float], length: int) -> None:
        """Give the workers their first micro-batches of a step.

        Args:
            x: inputs of the step, (sequences, block_size), int64.
            y: its targets.
            divisors: of the loss of each micro-batch.
            length: tokens of a window; those of a row are cut into windows.
        """
        if not self._workers:
            return
        running = [worker for worker in self._workers if worker.is_ready()]
        self._exchange.inputs.copy_(x)
        self._exchange.targets.copy_(y)
        self._micro_batch, self._divisors, self._length = len(x) // len(divisors), divisors, length
        self._turns = [None, *running]
        for i in range(min(len(self._turns), len(divisors))):
            self._assign(i)

    def collect(self, i: int) -> Tensor | None:
        """Add the gradients of micro-batch i to the parameters' and return its loss, a scalar.

        To be called in the order of the micro-batches. None where no worker has computed it: the
        caller does.
        """
        turn = i % len(self._turns)
        worker = self._turns[turn]
        if worker is None:
            return None
        if not worker.finish():
            self._turns[turn] = None
            return None
        _add_gradients(self._parameters, self._exchange.gradients[worker.index])
        loss = self._exchange.losses[worker.index].clone()
        self._assign(i + len(self._turns))
        return loss

    def orthogonalize(self, matrices: Tensor) -> Tensor:
        """`newton_schulz` of a batch (N, rows, columns), in as many parts as there are processes.

        The parts are the same when a worker is missing, and with them the bits.
        """
        parts = torch.tensor_split(matrices, len(self._workers) + 1)
        sent: list[tuple[_Worker, Tensor] | None] = [None]
        for part, worker in zip(parts[1:], self._workers, strict=True):
            shared = self._exchange.matrices[worker.index, : part.numel()].view_as(part)
            if part.numel() and worker.is_ready():
                shared.copy_(part)
                worker.send({"do": "orthogonalize", "shape": list(part.shape)})
                sent.append((worker, shared))
            else:
                sent.append(None)
        results = []
        for part, job in zip(parts, sent, strict=True):
            done = job is not None and job[0].finish()
            results.append(job[1] if job and done else newton_schulz(part))
        return torch.cat(results)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    def _assign(self, i: int) -> None:
        """Have micro-batch i computed, if there is one and it is a worker's."""
        worker = self._turns[i % len(self._turns)]
        if worker and i < len(self._divisors):
            n = self._micro_batch
            worker.send(
                {
                    "do": "compute",
                    "rows": [i * n, (i + 1) * n],
                    "length": self._length,
                    "divisor": self._divisors[i],
                }
            )


class _Worker:
    """One process, as this one sees it.

    Args:
        index: among the workers.
        job: what it is told at the start.
        file: the shared memory.
        threads: that it computes with.
    """

    def __init__(self, index: int, job: dict[str, Any], file: int, threads: int) -> None:
        self.index = index
        source = str(Path(pygpt.__file__).parents[1])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pygpt.training.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            pass_fds=(file,),
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C and a closed terminal are this process's to handle
        )
        assert self._process.stdin
        assert self._process.stdout
        self._tasks, self._answers = self._process.stdin, self._process.stdout
        self._is_up = False
        self._pending = 0
        # A worker ends with its standard input, also when this process is killed.
        self._finalizer = weakref.finalize(self, _end, self._process)
        self.send({**job, "index": index})

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def is_ready(self) -> bool:
        """Whether it has started, and has nothing left to do of a step that was given up."""
        if not self._finalizer.alive:
            return False
        while self._pending and (self._is_up or select.select([self._answers], [], [], 0)[0]):
            if not self.finish():
                return False
            self._is_up = True
        return not self._pending

    def send(self, task: dict[str, Any]) -> None:
        """Give it something to do; of a process that is gone, `finish` says so."""
        with contextlib.suppress(BrokenPipeError):
            self._tasks.write(json.dumps(task) + "\n")
        self._pending += 1

    def finish(self) -> bool:
        """Wait for its oldest answer; False, and it is ended, where it failed."""
        answer = self._answers.readline().strip()
        self._pending -= 1
        if answer == "done":
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # for the status, where it ended by itself
        self.close()
        reason = answer or f"it ended with status {self._process.returncode}"
        logger.warning("a worker failed (%s): this process does its part from here on", reason)
        return False

    def close(self) -> None:
        """End the process."""
        self._finalizer()


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(BrokenPipeError), process:  # waits for it
        assert process.stdin
        process.kill()


def _job(run: ResolvedConfig, sizes: Sizes, file: int) -> dict[str, Any]:
    """What a worker needs to know, as JSON."""
    return {
        "model": dataclasses.asdict(run.model),
        "impl": str(run.impl),
        "checkpoint_activations": run.config.checkpoint_activations,
        "dtype": str(run.dtype).removeprefix("torch."),
        "sizes": dataclasses.asdict(sizes),
        "file": file,
    }


def _add_gradients(parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    """As autograd adds those of a further micro-batch."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient.clone()
        else:
            parameter.grad += gradient
