"""How every benchmark reports: one kind of table, one kind of JSON, one kind of file name."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lib.interleaved import Spread
from rich.console import Console
from rich.table import Table

from pygpt.runs.environment import describe_environment

RESULTS = Path(__file__).parent.parent / "results"


@contextlib.contextmanager
def reporting(finish: Callable[[], None], failures: dict[str, str]) -> Iterator[None]:
    """Around measuring: `finish` is called at the end, or as soon as Ctrl-C or SIGTERM comes.

    SIGTERM is what `timeout` sends. A stop is noted in `failures` and exits with status 1. The
    signal's handler calls `finish`, because an exception might not get through: Python drops one
    that is raised in a weak reference's callback, and torch.compile has many of those.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        # `timeout` signals the process and then its group: the second must not end the writing.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        failures["the rest"] = "stopped"
        finish()
        sys.exit(1)

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    finish()


def headline(device: torch.device) -> str:
    """The machine on one line, for the title of a table."""
    about = describe_environment(device)
    held = " ".join(f"{name}={value}" for name, value in about.get("held_back_by", {}).items())
    device = f"{about['device']}{f', held back by {held}' if held else ''}"
    return f"{device}, {about['threads']} threads, torch {about['torch']}"


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1
) -> None:
    """Print a table whose first `names` columns are words and the others numbers."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        is_name = i < names
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 170, highlight=False).print(table)


def cells(spread: Spread, decimals: int = 1) -> tuple[str, str]:
    """A spread as two cells: the median, and the range."""
    low, high = (f"{value:,.{decimals}f}" for value in (spread.low, spread.high))
    return f"{spread.median:,.{decimals}f}", f"{low}–{high}"


def write_json(path: Path, device: torch.device, fields: dict[str, Any]) -> None:
    """Write results beside the machine that gave them, the versions and the date."""
    everything = {"machine": describe_environment(device), **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(everything, indent=1, ensure_ascii=False, default=_in_json)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path}")


def _in_json(value: object) -> str:
    """A path by its name alone: where it lies on one machine says nothing on another."""
    return value.name if isinstance(value, Path) else str(value)


def results_path(device: torch.device, name: str) -> Path:
    """``results/<device>-<date>-<name>.json``."""
    about = describe_environment(device)
    slug = "-".join(re.findall("[a-z0-9]+", about["device"].lower().replace("nvidia", "")))
    return RESULTS / f"{slug}-{about['date'][:10]}-{name}.json"
