"""What two ranks do, started by torchrun once for several tests; see test_parallel.py.

    torchrun --nproc-per-node 2 -m tests.helpers.rank_checks DATA OUT SEED

Writes OUT/rank-0.json and OUT/rank-1.json: what each rank saw, by the name of the check.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from pygpt.config import TrainConfig, padded_vocab_size
from pygpt.data import TokenDataset
from pygpt.evaluation.loss import Evaluation
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations
from pygpt.planning.hardware import Peak
from pygpt.planning.resolve import ResolvedConfig
from pygpt.runs.run import Run
from pygpt.training.launch import Launch
from pygpt.training.observer import StepReport
from pygpt.training.ranks import Ranks, joined
from pygpt.training.trainer import Trainer
from pygpt.utils.errors import InputError

CPU = torch.device("cpu")
STEPS = 4
TIMED = ("tokens_per_second", "mfu")


class Recorder:
    """An observer that keeps the figures of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.saved: list[str] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append(
            {name: value for name, value in report.fields().items() if name not in TIMED}
        )

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        pass

    def on_checkpoint(self, path: Path) -> None:
        self.saved.append(path.name)


def build(
    data: Path, directory: Path, seed: int, ranks: Ranks, parallel: str = "none", **changes: Any
) -> Trainer:
    """A trainer of a tiny model, with the same weights on all ranks."""
    config = TrainConfig(
        data=(str(data),), n_layer=2, n_head=2, n_embd=24, block_size=16, batch_tokens=128,
        micro_batch=2, max_steps=STEPS, warmup_steps=2, lr_decay_steps=STEPS, learning_rate=1e-2,
        min_lr=1e-3, grad_clip=0.5, eval_interval=STEPS, eval_tokens=16 * 5, device="cpu",
        checkpoint_interval=STEPS, dtype="float32", impl="eager", compile=False, seed=seed,
    )  # fmt: skip
    config = dataclasses.replace(config, **changes)
    train, val = (TokenDataset(data, split) for split in ("train", "val"))
    shape = config.model(padded_vocab_size(train.tokenizer.n_vocab))
    impl = Implementations.parse(config.impl).resolve(CPU, shape)
    resolved = ResolvedConfig(
        config, shape, CPU, torch.float32, impl, int(config.micro_batch), False,
        Peak(1e12, "of this test"), compile_is_auto=True, ranks=ranks.world_size,
        parallel=parallel,  # type: ignore[arg-type]
    )  # fmt: skip
    torch.manual_seed(seed)
    run = Run(directory)
    ranks.on_main(lambda: run.open(config, CPU, 0))
    return Trainer(resolved, GPT(shape, impl), train, val, run, ranks)


def never() -> bool:
    return False


def train(trainer: Trainer, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
    seen = Recorder()
    trainer.train(seen, should_stop)
    return {"steps": seen.steps, "saved": seen.saved, "micro_batch": trainer.run.micro_batch}


def fail_on_rank_1(trainer: Trainer, ranks: Ranks, error: RuntimeError) -> None:
    """Let the first call of the loss raise `error` on rank 1 alone."""
    loss, errors = trainer._parallel.loss, [error] if ranks.rank == 1 else []

    def failing(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if errors:
            raise errors.pop()
        return loss(x, y)

    trainer._parallel.loss = failing


def raising(error: RuntimeError) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def fail(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise error

    return fail


def check(data: Path, out: Path, seed: int, ranks: Ranks) -> dict[str, Any]:
    def make(name: str, parallel: str, **changes: Any) -> Trainer:
        return build(data, out / name, seed, ranks, parallel, **changes)

    found: dict[str, Any] = {}
    for optimizer in ("adamw", "muon"):
        for parallel in ("ddp", "fsdp"):
            name = f"{parallel}-{optimizer}"
            found[name] = train(make(name, parallel, optimizer=optimizer))
            # What one process saved, on two.
            resumed = make(f"{name}-resumed", parallel, optimizer=optimizer, max_steps=STEPS + 2)
            newest = Run(out / f"one-{optimizer}").newest_checkpoint()
            assert newest
            resumed.resume(newest)
            found[f"{name}-resumed"] = train(resumed)
    for accumulation, micro_batch in ((2, 2), (1, 4)):
        trainer = make(f"memory-{accumulation}", "ddp", micro_batch=micro_batch)
        fail_on_rank_1(trainer, ranks, torch.OutOfMemoryError("CUDA out of memory"))
        found[f"memory-{accumulation}"] = train(trainer)
    trainer = make("memory-fsdp", "fsdp")
    error = torch.OutOfMemoryError("CUDA out of memory")
    trainer._parallel.loss = raising(error)
    try:
        trainer.train_step()
    except InputError as refused:
        found["memory-fsdp"] = str(refused)
    trainer = make("compiler", "ddp")
    trainer.run = dataclasses.replace(trainer.run, compile=True)
    fail_on_rank_1(trainer, ranks, TorchDynamoException("header vanished"))
    found["compiler"] = train(trainer) | {"compile": trainer.run.compile}
    averaged = make("averaged", "fsdp", ema_decay=0.9)
    found["averaged"] = train(averaged)
    trainer = make("stopped", "fsdp")
    found["stopped"] = train(trainer, lambda: ranks.rank == 1 and trainer.step == 2)
    for name, theirs in {"seed": 1, "batch_tokens": 128}.items():
        try:
            ranks.check_same({"version": "1", name: theirs + ranks.rank})
        except InputError as error:
            found[f"other {name}"] = str(error)
    return found


def main() -> None:
    data, out, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    launch = Launch.of()
    torch.set_num_threads(1)
    with joined(launch, CPU, 60) as ranks:
        found = check(data, out, seed, ranks)
    (out / f"rank-{launch.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
