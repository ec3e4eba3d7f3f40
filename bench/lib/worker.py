"""Worker process of `lib.sides.Side`: trains one side, pygpt or nanoGPT, on request.

Reads one JSON object a line from stdin and answers each with one on stdout: ``{"steps": n}`` trains
n steps and returns their losses and seconds, ``{"seconds": s}`` as many as fit into that time, and
``{"evaluate": tokens}`` returns the validation loss.
All workers exist at the same time and take turns, so that load on the machine affects all alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lib import nanogpt

from pygpt.config import TrainConfig, padded_vocab_size
from pygpt.data import TokenDataset
from pygpt.evaluation.loss import Windows, evaluate
from pygpt.model import GPT
from pygpt.planning.hardware import keep_freed_memory, use_physical_cores
from pygpt.planning.resolve import Machine, resolve
from pygpt.runs.run import Run
from pygpt.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker trains. The sides differ only in how."""

    side: str
    """"pygpt" or "nanogpt"."""
    data: str
    device: str
    dtype: str
    """"auto" (pygpt only), "float32" or "bfloat16"."""
    compile: bool
    config: dict[str, Any]
    """Fields of TrainConfig."""
    nanogpt: str = ""
    """The checkout."""


class Worker(Protocol):
    """What both sides offer."""

    description: str

    def step(self) -> float:
        """Train one step and return its loss."""

    def evaluate(self, max_tokens: int | None) -> float:
        """Validation loss, nats per token, over the same windows on both sides."""


class Pygpt:
    """pygpt's own trainer, as `python -m pygpt.train` builds it."""

    def __init__(self, task: Task, directory: Path) -> None:
        train, self._val = (TokenDataset(task.data, split) for split in ("train", "val"))
        device = torch.device(task.device)
        if device.type == "cpu":
            keep_freed_memory()
            use_physical_cores()
        config = TrainConfig(**task.config)
        config = dataclasses.replace(
            config,
            dtype=task.dtype,  # type: ignore[arg-type]
            compile=task.compile,
        )
        vocab_size = padded_vocab_size(train.tokenizer.n_vocab)
        run = resolve(config, vocab_size, Machine.here(device))
        torch.manual_seed(config.seed)
        model = GPT(run.model, run.impl)
        self._trainer = Trainer(run, model.to(device), train, self._val, Run(directory))
        self.description = f"{run.config.dtype}, {run.impl}"

    def step(self) -> float:
        return self._trainer.train_step().loss.item()

    def evaluate(self, max_tokens: int | None) -> float:
        return evaluate(self._trainer.model, self._val, max_tokens=max_tokens).loss


class NanoGPT:
    """nanoGPT's model and optimizer from its checkout, in a loop like that of its train.py."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._config = TrainConfig(**task.config)
        torch.manual_seed(self._config.seed)
        self._val = TokenDataset(task.data, "val")
        shape = self._config.model(padded_vocab_size(self._val.tokenizer.n_vocab))
        self._model, self._optimizer = nanogpt.build(
            Path(task.nanogpt), shape, self._config, torch.device(task.device)
        )
        self._forward = torch.compile(self._model) if task.compile else self._model
        self._step = 0
        self.description = f"{task.dtype}{', compiled' if task.compile else ''}"

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._task.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self._task.device).type, torch.bfloat16)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        c = self._config
        assert c.micro_batch != "auto"
        data = np.memmap(Path(self._task.data) / "train.bin", dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - c.block_size, (c.micro_batch,))
        rows = [data[i : i + c.block_size + 1].astype(np.int64) for i in starts]
        both = torch.from_numpy(np.stack(rows)).to(self._task.device)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def _rate(self) -> float:
        c = self._config
        if self._step < c.warmup_steps:
            return c.learning_rate * (self._step + 1) / (c.warmup_steps + 1)
        progress = min(1.0, (self._step - c.warmup_steps) / (c.max_steps - c.warmup_steps))
        return c.min_lr + (c.learning_rate - c.min_lr) * (1 + math.cos(math.pi * progress)) / 2

    def step(self) -> float:
        c = self._config
        assert c.micro_batch != "auto"
        accumulation = c.accumulation(c.micro_batch)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        for _ in range(accumulation):
            x, y = self._batch()
            with self._autocast():
                _, loss = self._forward(x, y)
            (loss / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), c.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return float(loss.item())

    @torch.no_grad()
    def evaluate(self, max_tokens: int | None) -> float:
        block_size = self._config.block_size
        windows = Windows.over(self._val, block_size, block_size, max_tokens)
        nats = tokens = 0.0
        self._model.eval()
        for x, y in windows.batches(self._val, 8):
            _, loss = self._model(x.to(self._task.device), y.to(self._task.device))
            count = int((y >= 0).sum())
            nats, tokens = nats + loss.item() * count, tokens + count
        self._model.train()
        return nats / tokens


def peak_memory(device: str) -> int:
    """Bytes: of the device's allocator, or of the whole process on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Build the side that the argument describes, then answer requests."""
    task = Task(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as directory:
        worker: Worker = Pygpt(task, Path(directory)) if task.side == "pygpt" else NanoGPT(task)
        answer({"ready": worker.description})
        for line in sys.stdin:
            command = json.loads(line)
            if "evaluate" in command:
                answer({"val_loss": worker.evaluate(command["evaluate"])})
                continue
            start = time.perf_counter()
            losses = list(_train(worker, command, start))
            seconds = time.perf_counter() - start
            peak = peak_memory(task.device)
            answer({"losses": losses, "seconds": seconds, "peak_memory": peak})


def _train(worker: Worker, command: dict[str, Any], start: float) -> Iterator[float]:
    """The losses of so many steps, or of those of so many seconds, at least one."""
    most, limit = command.get("steps", math.inf), command.get("seconds", math.inf)
    done = 0
    while done < most and (not done or time.perf_counter() - start < limit):
        yield worker.step()
        done += 1


def answer(fields: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
