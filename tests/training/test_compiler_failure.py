"""torch.compile that fails: an "auto" run goes on without it."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pygpt.config import TrainConfig
from pygpt.data import TokenDataset
from pygpt.model import GPT
from pygpt.planning.resolve import Machine, ResolvedConfig, resolve
from pygpt.runs.run import Run
from pygpt.training.trainer import Trainer
from pygpt.utils.errors import InputError

CONFIG = TrainConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=32, batch_tokens=256, micro_batch=2, max_steps=4,
    warmup_steps=2, device="cpu", dtype="float32", impl="eager", compile=False, learning_rate=1e-2,
    min_lr=1e-3, grad_clip=0.5,
)  # fmt: skip


def resolved(config: TrainConfig) -> ResolvedConfig:
    return resolve(config, 320, Machine.here(torch.device("cpu")))


def trainer_of(run: ResolvedConfig, data: Path, directory: Path) -> Trainer:
    torch.manual_seed(run.config.seed)
    train, val = (TokenDataset(data, split) for split in ("train", "val"))
    there = Run(directory)
    there.open(run.config, run.device, 0)
    return Trainer(run, GPT(run.model, run.impl), train, val, there)


def break_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("precompiled header vanished")

    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)


def test_a_compiler_that_fails_does_not_end_an_auto_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    eager = trainer_of(resolved(CONFIG), data, tmp_path / "eager")
    expected = [eager.train_step().loss.item() for _ in range(2)]
    run = dataclasses.replace(
        resolved(dataclasses.replace(CONFIG, compile=True)), compile_is_auto=True
    )
    break_compiler(monkeypatch)
    trainer = trainer_of(run, data, tmp_path / "auto")
    assert [trainer.train_step().loss.item() for _ in range(2)] == expected
    assert "torch.compile failed" in caplog.text
    assert "goes on without it" in caplog.text
    assert trainer.directory.config().compile is False


def test_a_compiler_that_was_asked_for_fails_with_the_way_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_compiler(monkeypatch)
    run = resolved(dataclasses.replace(CONFIG, compile=True))
    with pytest.raises(InputError, match="torch.compile failed .*--compile False"):
        trainer_of(run, data, tmp_path).train_step()
