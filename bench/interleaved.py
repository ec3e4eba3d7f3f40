"""Timing several ways to do one thing on a machine that does other things too: in turns.

Every round runs each way once, so that a slow minute falls on all of them; figures are medians with
the 20th and 80th percentile. Works on a CPU and on a GPU.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one way over the rounds."""

    median: float
    low: float
    high: float
    calls: int


def measure(
    ways: Mapping[str, Call], rounds: int, device: torch.device, budget_s: float = 30.0
) -> dict[str, Timing]:
    """Time every way once a round, after one call to warm it up.

    Args:
        ways: name → call.
        rounds: how often.
        device: waited for before and after each call.
        budget_s: a way that has taken this long altogether sits out the other rounds.
    """
    for call in ways.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            if sum(times[name]) < budget_s:
                times[name].append(_seconds(call, device))
    return {name: _summary(seconds) for name, seconds in times.items()}


def _seconds(call: Call, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summary(seconds: list[float]) -> Timing:
    ms = sorted(1e3 * value for value in seconds)
    low, high = (ms[round(share * (len(ms) - 1))] for share in (0.2, 0.8))
    return Timing(statistics.median(ms), low, high, len(ms))


def peak_megabytes(call: Call, device: torch.device) -> float | None:
    """What a call, after one to warm up, allocates beyond what there is; None if it can't be told.

    On a CPU this is the rise of the resident size (Linux), so it is right only while freed memory
    goes back to the system: measure it before `pygpt.hardware.keep_freed_memory` is called.
    """
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return float(torch.cuda.max_memory_allocated(device) - before) / 1e6
    if not Path("/proc/self/clear_refs").exists():
        return None
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    call()
    return (_status("VmHWM") - before) / 1e6


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


# --- reporting ------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, str]:
    """What a figure means nothing without."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> None:
    """Print a table whose first `names` columns are words and the others numbers."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < names else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def milliseconds(timing: Timing) -> tuple[str, str]:
    """A timing as two cells: the median, and the range."""
    return f"{timing.median:.1f}", f"{timing.low:.1f}–{timing.high:.1f}"


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Write results beside the machine that gave them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path}")
