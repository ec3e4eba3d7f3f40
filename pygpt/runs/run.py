"""A run's directory: its configuration, metrics and checkpoints.

::

    runs/stdlib-cpu-20260131-101500/
      config.toml     every value of the configuration, as `--config` reads it
      run.json        versions and machine, one entry per start
      metrics.jsonl   one object per step
      lock            locked by the process that trains
      checkpoints/    see `pygpt.runs.checkpoint`
      tensorboard/    when TensorBoard is installed
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pygpt.config import TrainConfig, toml_file
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.files import remove_partial, replace_text
from pygpt.utils.json_file import of_type, parse

if TYPE_CHECKING:
    import torch

RUNS = Path("runs")
CHECKPOINT_PREFIX = "step-"
AVERAGE = "average"
"""Directory of a checkpoint that holds the averaged weights, where the run keeps them."""
# `python -m pygpt.runs` takes a run's lock for microseconds, to see whether it is free.
_LOCK_TRIES, _LOCK_SECONDS = 4, 0.05


class Run:
    """The directory of one run. The constructor does not touch the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self._starts_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self._opened = False

    @property
    def started(self) -> bool:
        """Whether the directory holds a run."""
        return os.path.exists(self.config_file)  # unlike Path.exists, False without permission

    @property
    def last_written(self) -> float:
        """When a step was last recorded, in seconds since 1970."""
        metrics = self.metrics_file
        return os.stat(metrics if metrics.exists() else self.config_file).st_mtime

    @classmethod
    def of_checkpoint(cls, directory: Path) -> Run:
        """The run that a checkpoint, or its averaged weights, would belong to."""
        directory = directory.resolve()  # it may be given as "."
        step = directory.parent if directory.name == AVERAGE else directory
        return cls(step.parent.parent)

    def config(self) -> TrainConfig:
        """The stored configuration, which a resumed run starts with."""
        return TrainConfig(**toml_file.read(self.config_file))

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None before the first."""
        paths = list_checkpoints(self.checkpoints)
        return paths[-1] if paths else None

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the directory and lock it for this process.

        Raises:
            InputError: it can't be written, or another process trains in it.
        """
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("w")
        with file:
            self._lock(file)
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Context for writing in the directory: turns an OSError into an InputError."""
        try:
            yield
        except OSError as error:
            way_out = "give another --out"
            if self._opened or self.started:
                safe = newest_is_safe(self.checkpoints)
                way_out = f"{safe}. Fix that, or make room, and go on with --resume"
            raise InputError(
                f"the run directory {self.path} can't be written ({error}); {way_out}"
            ) from error

    def open(
        self,
        config: TrainConfig,
        device: torch.device,
        step: int,
        data: Sequence[dict[str, Any]] = (),
        launch: str | None = None,
    ) -> None:
        """Create or reopen the directory for training from `step` on.

        Metrics of later steps, which a killed run may have left, are deleted: those steps are
        trained again.

        Args:
            config: stored as config.toml.
            device: described in run.json.
            step: steps done.
            data: what run.json records of the datasets.
            launch: identifies the torchrun that started the processes.

        Raises:
            InputError: a file in it is damaged or can't be written.
        """
        with self.writing():
            # A resumed run has its directory; see `append_metrics`.
            self.checkpoints.mkdir(parents=step == 0, exist_ok=True)
            self.remove_partial()
            self._keep_metrics_before(step)
            self._record_start(device, {"step": step, "data": list(data), "launch": launch})
        self.write_config(config)  # last: a directory with this file is a run
        self._opened = True

    def remove_partial(self) -> None:
        """Delete what a killed process left half written; the caller holds the lock."""
        remove_partial(self.checkpoints)
        own = (self.config_file, self._starts_file, self.metrics_file)
        remove_partial(self.path, *(path.name for path in own))

    def write_config(self, config: TrainConfig) -> None:
        """Store `config`: a resumed run starts with it."""
        with self.writing():
            replace_text(self.config_file, config.as_toml())

    def append_metrics(self, fields: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``.

        `open` has made the file. It is not made here: after its disk was unmounted, the run would
        go on in the directory that was under it.
        """
        with (
            self.writing(),
            open(
                os.open(self.metrics_file, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8"
            ) as file,
        ):
            file.write(json.dumps(fields) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The complete lines of ``metrics.jsonl``; a killed run may have left part of one more.

        Raises:
            InputError: a line is damaged.
        """
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_bytes().split(b"\n")[:-1]
        return [self._metrics_of(line, number) for number, line in enumerate(lines, 1)]

    def _lock(self, file: TextIO) -> None:
        """Lock a file. The system releases the lock when the process ends, however it ends."""
        with self.writing():
            for _ in range(_LOCK_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_LOCK_SECONDS)
                else:
                    return
        raise InputError(
            f"another process is training in {self.path}; wait for it or stop it, or give another "
            "--out"
        )

    def _metrics_of(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = parse(line)
            fields["step"] = of_type("step", fields["step"], int)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.metrics_file} is damaged in line {number} ({type(error).__name__}: "
                f"{error}); delete that line"
            ) from error
        return fields

    def _keep_metrics_before(self, step: int) -> None:
        lines = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        replace_text(self.metrics_file, "".join(lines))

    @property
    def launch(self) -> str | None:
        """The torchrun that started the run last; None for a process alone."""
        starts = self._starts()
        return starts[-1].get("launch") if starts else None

    def _record_start(self, device: torch.device, fields: dict[str, Any]) -> None:
        from pygpt.runs.environment import describe_environment

        given = {name: value for name, value in fields.items() if value is not None}
        starts = [*self._starts(), describe_environment(device) | given]
        replace_text(self._starts_file, json.dumps(starts, indent=2) + "\n")

    def _starts(self) -> list[dict[str, Any]]:
        path = self._starts_file
        try:
            starts = parse(path.read_bytes()) if path.exists() else []
            return list(of_type("it", starts, list[dict[str, Any]]))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); delete or move it") from error


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints below `directory`, oldest first."""
    paths = directory.glob(f"{CHECKPOINT_PREFIX}*")
    return sorted(
        path for path in paths if path.is_dir() and path.name[len(CHECKPOINT_PREFIX) :].isdecimal()
    )


def newest_is_safe(directory: Path) -> str:
    """Which checkpoint is there, for a message of one that could not be written."""
    if not directory.exists():
        return f"{directory} is not there any more"
    paths = list_checkpoints(directory)
    return f"{paths[-1].name} is safe" if paths else "there is no checkpoint before it"


def runs_below(root: Path) -> list[Run]:
    """The runs in a directory; the one that was written to last is the last."""
    found = [run for path in root.glob("*") if (run := Run(path)).started]
    return sorted(found, key=lambda run: run.last_written)


def newest_run(root: Path = RUNS) -> Run:
    """The run below `root` that was written to last.

    Raises:
        InputError: there is none.
    """
    found = runs_below(root)
    if not found:
        raise InputError(
            f"no run in {root.absolute()}; give the directory of one, or train one with "
            f"{cli.command('train')}"
        )
    return found[-1]
