"""Readers of training logs: one file a format.

Each module has `NAME`, `matches(path, head)` and `read(path, log)`. The first that matches reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pygpt.reporting.readers import (
    litgpt,
    llmc,
    modded_nanogpt,
    nanochat,
    nanogpt,
    pygpt_run,
    table,
    tensorboard,
    trainer_state,
)
from pygpt.reporting.readers.lines import head
from pygpt.reporting.runlog import LogBuilder, RunLog
from pygpt.utils.errors import InputError


class Reader(Protocol):
    """A module of this package."""

    NAME: str

    def matches(self, path: Path, head: str) -> bool:
        """Whether a file that begins with `head` has this format; a directory has no head."""

    def read(self, path: Path, log: LogBuilder) -> None:
        """Add all that the file holds."""


READERS: tuple[Reader, ...] = (
    pygpt_run,
    tensorboard,
    trainer_state,
    nanogpt,
    nanochat,
    modded_nanogpt,
    llmc,
    litgpt,
    table,
)


def read_log(path: Path) -> RunLog:
    """Read a training log or the directory of a run, in whatever format it is.

    Raises:
        InputError: there is nothing at `path`, no reader knows it, or it holds no loss.
    """
    if not path.exists():
        raise InputError(f"there is no {path}; give the directory of a run, or a training log")
    path = _file_within(path)
    is_text = path.is_file() and not tensorboard.matches(path, "")
    beginning = head(path) if is_text else ""
    for reader in READERS:
        if reader.matches(path, beginning):
            log = LogBuilder(path, reader.NAME)
            reader.read(path, log)
            return log.build(_name(path))
    known = ", ".join(reader.NAME for reader in READERS)
    raise InputError(
        f"{path} has no format that is known here ({known}); a CSV or JSONL file with columns "
        "step and loss always works"
    )


def _file_within(path: Path) -> Path:
    """The log in a directory that other trainers write; the path itself elsewhere."""
    if not path.is_dir() or pygpt_run.matches(path, "") or tensorboard.matches(path, ""):
        return path
    for name in ("main.log", "trainer_state.json", "metrics.csv", "metrics.jsonl"):
        if (path / name).is_file():
            return path / name
    checkpoints = path.glob("checkpoint-*/trainer_state.json")
    newest = max(checkpoints, key=lambda file: file.stat().st_mtime, default=None)
    if newest:
        return newest
    raise InputError(
        f"{path} is not a run directory (no config.toml) and holds no log that is known by its "
        "name (main.log, trainer_state.json, metrics.csv, metrics.jsonl, events.out.tfevents…); "
        "name the log itself"
    )


def _name(path: Path) -> str:
    """What to call a run: its directory, where the file's own name says nothing."""
    path = path.absolute()
    plain = {"metrics", "main", "log", "train", "trainer_state", "stdout", "output", "events"}
    if path.is_file() and (path.stem in plain or "tfevents" in path.name):
        return path.parent.name
    return path.stem if path.is_file() else path.name
