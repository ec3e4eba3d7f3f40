"""Local workers: the bits of one process, whoever computes, and nobody left behind."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt.config import TrainConfig
from pygpt.data import TokenDataset
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations
from pygpt.planning.hardware import Peak
from pygpt.planning.local_workers import MIN_OPERATIONS, can_share, share_step
from pygpt.planning.memory import Plan
from pygpt.planning.resolve import Machine, ResolvedConfig, resolve
from pygpt.runs.run import Run
from pygpt.training.trainer import Trainer
from pygpt.training.workers import Workers

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
PATIENCE = 60
"""Seconds that a busy machine may take to start a process with PyTorch."""


def make_run(seed: int, data: Path, workers: int, **changes: Any) -> ResolvedConfig:
    config = TrainConfig(
        data=(str(data),), n_layer=2, n_head=2, n_embd=64, block_size=16, batch_tokens=160,
        max_steps=6, warmup_steps=2, lr_decay_steps=6, learning_rate=1e-2, min_lr=1e-3,
        device="cpu", dtype="float32", micro_batch=2, compile=False, seed=seed,
    )  # fmt: skip
    config = dataclasses.replace(config, **changes)
    shape = config.model(320)
    impl = Implementations.parse("auto").resolve(CPU, shape)
    return ResolvedConfig(
        config, shape, CPU, getattr(torch, config.dtype), impl, int(config.micro_batch), False,
        Peak(1e12, "of this test"), workers=workers,
    )  # fmt: skip


@pytest.fixture
def build(data: Path, tmp_path: Path, seed: int) -> Callable[..., Trainer]:
    def build(workers: int, **changes: Any) -> Trainer:
        run = make_run(seed, data, workers, **changes)
        train, val = (TokenDataset(data, split) for split in ("train", "val"))
        torch.manual_seed(seed)
        model = GPT(
            run.model, run.impl, checkpoint_activations=run.config.checkpoint_activations
        ).train()
        return Trainer(run, model, train, val, Run(tmp_path / str(workers)))

    return build


def wait_for(workers: Workers, count: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while len(pids := workers.pids()) < count:
        assert time.monotonic() < deadline, f"{len(pids)} of {count} workers have started"
        time.sleep(0.05)
    return pids


def has_ended(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and " Z " in Path(f"/proc/{pid}/stat").read_text()


def assert_same_step(a: Trainer, b: Trainer) -> None:
    one, other = a.train_step(), b.train_step()
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(one.grad_norm, other.grad_norm)
    for (name, p), q in zip(a.model.named_parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon"},  # 5 micro-batches: one process has one more
        {"optimizer": "muon", "dtype": "bfloat16", "micro_batch": 5},
        {"checkpoint_activations": True, "block_warmup_steps": 4},
    ],
    ids=["muon", "bf16", "checkpointing"],
)
def test_bits_are_those_of_one_process(
    build: Callable[..., Trainer], changes: dict[str, Any]
) -> None:
    alone, shared = build(1, **changes), build(2, **changes)
    if changes.get("optimizer") == "muon":
        # In as many parts as there are processes: GEMMs of another batch may round differently.
        whole = alone._updater.optimizer.orthogonalize
        alone._updater.optimizer.orthogonalize = lambda matrices: torch.cat(
            [whole(part) for part in torch.tensor_split(matrices, 2)]
        )
    assert_same_step(alone, shared)  # most likely before the worker has started
    wait_for(shared._workers, 1)
    assert_same_step(alone, shared)
    assert_same_step(alone, shared)
    shared._workers.close()


def test_a_worker_that_dies_changes_no_bit(
    build: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    alone, shared = build(1), build(3)
    pids = wait_for(shared._workers, 2)
    assert_same_step(alone, shared)
    os.kill(pids[0], signal.SIGKILL)
    assert_same_step(alone, shared)
    assert_same_step(alone, shared)
    assert caplog.text.count("a worker failed") == 1
    assert shared._workers.pids() == pids[1:]
    shared._workers.close()


def test_ctrl_c_does_not_reach_a_worker(build: Callable[..., Trainer]) -> None:
    trainer = build(2)
    (pid,) = wait_for(trainer._workers, 1)
    assert os.getpgid(pid) != os.getpgid(0)
    trainer._workers.close()
    assert has_ended(pid)


def test_a_killed_run_leaves_no_worker(data: Path, seed: int) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_workers import *
run = make_run({seed}, Path({str(data)!r}), 2)
workers = Workers(GPT(run.model, run.impl), run)
print(*wait_for(workers, 1), flush=True)
time.sleep({PATIENCE})
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + PATIENCE
    while not has_ended(pid):
        assert time.monotonic() < deadline, "the worker still runs"
        time.sleep(0.05)


# --- when, and how many ---------------------------------------------------------------------------

LONG = TrainConfig(
    n_layer=4, n_head=4, n_embd=128, block_size=64, batch_tokens=1536, max_steps=900, device="cpu",
    dtype="float32", compile="auto", impl="eager",
)  # fmt: skip


def test_long_runs_without_dropout_share_steps() -> None:
    shape = LONG.model(320)
    operations = LONG.max_steps * LONG.batch_tokens * shape.flops_per_token()
    assert operations > MIN_OPERATIONS
    assert can_share(LONG, shape, "cpu")
    assert not can_share(LONG, shape, "cuda")
    for changes in ({"dropout": 0.1}, {"compile": True}, {"max_steps": 2}):
        assert not can_share(dataclasses.replace(LONG, **changes), shape, "cpu"), changes


@pytest.mark.parametrize(
    ("threads", "processes", "micro_batch"),
    [(1, 1, 24), (2, 2, 12), (8, 8, 3), (16, 12, 2), (64, 24, 1)],
)
def test_processes_of_a_step(threads: int, processes: int, micro_batch: int) -> None:
    machine = dataclasses.replace(Machine.here(CPU), threads=threads, free=64 << 30)
    run = resolve(LONG, 320, machine)
    assert (run.workers, run.micro_batch) == (processes, micro_batch)
    assert not run.compile
    assert run.plan().workers == processes


def test_a_resumed_run_keeps_its_micro_batch() -> None:
    machine = dataclasses.replace(Machine.here(CPU), threads=8, free=64 << 30)
    run = resolve(dataclasses.replace(LONG, micro_batch=12), 320, machine)
    assert (run.workers, run.micro_batch) == (2, 12)


def test_workers_need_memory() -> None:
    plan = Plan.of(LONG, 320, "cpu", torch.float32, "eager")
    shared = dataclasses.replace(plan, workers=2)
    need = shared.estimate(12).planned
    assert need > plan.estimate(12).planned
    assert share_step(plan, 12, 2, need) == (2, 12)
    assert share_step(plan, 12, 2, need - 1) == (1, 12)
