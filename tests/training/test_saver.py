"""Checkpoints are written while training goes on, one at a time, and none is lost."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt.hub.stored import read_tensors
from pygpt.runs import checkpoint
from pygpt.training import saver
from pygpt.training.ranks import Ranks
from pygpt.training.trainer import Trainer
from pygpt.utils.errors import InputError
from pygpt.utils.machine import Memory
from tests.helpers.rank_checks import Recorder, build, never

Build = Callable[..., Trainer]


@pytest.fixture
def trainer_of(data: Path, tmp_path: Path, seed: int) -> Build:
    def make(name: str = "run", **changes: Any) -> Trainer:
        changes = {"eval_interval": 100, "checkpoint_interval": 2, "max_steps": 6, **changes}
        return build(data, tmp_path / name, seed, Ranks(), **changes)

    return make


class Disk:
    """A disk that writes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writing, self.may_write = threading.Semaphore(0), threading.Semaphore(0)
        self.at_once = 0
        self.most_at_once = 0
        self._write = checkpoint.write
        monkeypatch.setattr(checkpoint, "write", self.write)

    def write(self, directory: Path, content: checkpoint.Content) -> Path:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.writing.release()
        self.may_write.acquire()
        path = self._write(directory, content)
        self.at_once -= 1
        return path


def test_steps_go_on_while_the_weights_of_their_step_are_written(
    trainer_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, trainer, seen = Disk(monkeypatch), trainer_of(), Recorder()
    at_step_2: dict[str, torch.Tensor] = {}
    steps_while_writing = []

    def watch() -> bool:
        if trainer.step == 2:
            state = trainer.model.state_dict()
            at_step_2.update({name: tensor.clone() for name, tensor in state.items()})
        if trainer.step == 3:
            assert disk.writing.acquire(timeout=60)  # the thread waits for the disk
            steps_while_writing.append(trainer.step)
            assert seen.saved == []
            for _ in range(3):
                disk.may_write.release()
        return False

    trainer.train(seen, watch)
    assert steps_while_writing == [3]
    assert seen.saved == ["step-00000002", "step-00000004", "step-00000006"]
    assert disk.most_at_once == 1
    newest = trainer.directory.checkpoints / "step-00000004"
    assert newest.is_dir()
    whole = trainer_of("whole", keep_checkpoints=9)
    disk.may_write.release(3)
    whole.train(Recorder(), never)
    written = read_tensors(whole.directory.checkpoints / "step-00000002" / "model.safetensors")
    assert torch.equal(written["wte.weight"], at_step_2["wte.weight"])
    assert torch.equal(
        written["h.0.mlp.c_fc.weight"], at_step_2["h.0.mlp.c_fc.weight"].t()
    )  # Hugging Face's is transposed


def test_a_full_disk_ends_the_run_and_keeps_older_checkpoints(
    trainer_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, trainer = os.fsync, trainer_of()

    def full(descriptor: int) -> None:
        if is_full.is_set():
            raise OSError(28, "No space left on device")
        original(descriptor)

    def fill_after_the_first() -> bool:
        if trainer.step == 3:
            trainer._saver.wait()
            is_full.set()
        return False

    is_full = threading.Event()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="of step 4 could not be written .*No space left"):
        trainer.train(Recorder(), fill_after_the_first)
    # Nothing half written is left.
    assert [path.name for path in trainer.directory.checkpoints.iterdir()] == ["step-00000002"]


def test_without_memory_for_a_copy_training_waits_for_the_disk(
    trainer_of: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver, "free_memory", lambda device: Memory(1000))
    trainer, seen = trainer_of(), Recorder()
    threads: list[str] = []
    original = checkpoint.write

    def write(directory: Path, content: checkpoint.Content) -> Path:
        threads.append(threading.current_thread().name)
        return original(directory, content)

    monkeypatch.setattr(checkpoint, "write", write)
    trainer.train(seen, never)
    assert threads == ["MainThread"] * 3
    assert seen.saved == ["step-00000002", "step-00000004", "step-00000006"]
    text = "training waits for the disk"
    assert sum(text in record.message for record in caplog.records) == 1


def test_an_error_of_training_waits_for_the_checkpoint_on_its_way(
    trainer_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, trainer = Disk(monkeypatch), trainer_of()

    def fail() -> bool:
        if trainer.step == 3:
            disk.may_write.release()
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trainer.train(Recorder(), fail)
    newest = trainer.directory.newest_checkpoint()
    assert newest
    assert newest.name == "step-00000002"
