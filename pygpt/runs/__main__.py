"""python -m pygpt.runs: the runs of a directory and their state."""

from __future__ import annotations

import dataclasses
import fcntl
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import of_type, parse

TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl that are read."""


@dataclasses.dataclass(frozen=True)
class RunsConfig:
    """List runs: their state, how far they are, and their last losses."""

    directory: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Directory that holds the runs."""


def main() -> None:
    """The command."""
    config = cli.parse(RunsConfig, prog="python -m pygpt.runs")
    if not config.directory.is_dir():
        raise InputError(f"no directory {config.directory.absolute()}; give the one of your runs")
    from pygpt.runs.run import runs_below

    runs = runs_below(config.directory)
    if not runs:
        raise InputError(f"no run in {config.directory.absolute()}; {cli.command('train')}")
    table = Table("run", "state", "step", "loss", "validation", "last written")
    for run in runs:
        lines = last_metrics(run.metrics_file)
        planned = run.config().max_steps
        step = lines[-1]["step"] if lines else 0
        validations = [line["val_loss"] for line in lines if line.get("val_loss") is not None]
        table.add_row(
            run.path.name,
            state(run.path, step, planned, run.newest_checkpoint() is not None),
            f"{step:,} of {planned:,}",
            f"{lines[-1]['train_loss']:.3f}" if lines else "–",
            f"{validations[-1]:.3f}" if validations else "–",
            f"{datetime.fromtimestamp(run.last_written):%Y-%m-%d %H:%M}",
        )
    console = Console()
    console.print(table)
    cli.say(console, f"Judge one, or several beside each other: {cli.command('report', run.path)}")


def state(path: Path, step: int, planned: int, saved: bool) -> str:
    """In one word: training, finished, or stopped."""
    if is_training(path):
        return "training"
    if step >= planned:
        return "finished"
    return "stopped" if saved else "stopped, nothing saved"


def is_training(path: Path) -> bool:
    """Whether a process holds the run's lock; see `Run.claimed`."""
    try:
        with (path / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_metrics(path: Path) -> list[dict[str, Any]]:
    """The last whole lines of metrics.jsonl; none where there is no such file yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(_metrics(parse(line)))
        except (ValueError, TypeError, KeyError):  # cut at either end
            continue
    return found


def _metrics(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": of_type("step", fields["step"], int),
        "train_loss": of_type("train_loss", fields["train_loss"], float),
        "val_loss": of_type("val_loss", fields.get("val_loss"), float | None),
    }


if __name__ == "__main__":
    cli.run(main)
