"""Training beside other programs: pygpt and nanoGPT, alone and beside processes that only compute.

    python -m pygpt.prepare --tokenizer bytes --out data/stdlib-bytes
    python bench/bench_busy.py --nanogpt DIR

Both train the model of pygpt's default CPU run with its batch. With n processes that spin on c
cores, a fair share is c / (c + n) of the rate alone. The sides and the loads take turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from lib import nanogpt, report
from lib.interleaved import Spread
from lib.sides import Side
from rich.progress import Progress

from pygpt.config import from_preset
from pygpt.planning.hardware import use_physical_cores
from pygpt.utils import cli

NAMES = ("nanoGPT", "pygpt")


@dataclasses.dataclass(frozen=True)
class Options:
    """Rates of training on a busy machine."""

    nanogpt: Path
    """A checkout of nanoGPT."""
    data: Path = Path("data/stdlib-bytes")
    """Dataset directory with train.bin and val.bin in uint16."""
    rounds: int = 3
    """Turns of each side at each load."""
    seconds: float = 5.0
    """Of one turn."""
    json: Path | None = None
    """Where to write the figures."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, description=__doc__)
    nanogpt.check(options.nanogpt)
    cores = use_physical_cores()
    loads = sorted({0, 1, cores})
    config = dataclasses.asdict(from_preset("stdlib-cpu"))
    sides = _start(options, config)
    rates: dict[tuple[str, int], list[float]] = {(n, load): [] for n in NAMES for load in loads}
    try:
        with Progress() as progress:
            for _ in progress.track(range(options.rounds), description="interleaved"):
                for load in random.sample(loads, len(loads)):
                    with spinning(load):
                        for name in random.sample(NAMES, len(NAMES)):
                            rate = sides[name].rate(options.seconds)
                            rates[name, load].append(config["batch_tokens"] * rate)
    finally:
        for side in sides.values():
            side.close()
    rows = [_row(name, load, cores, rates) for load in loads for name in NAMES]
    _print(rows)
    if options.json:
        fields = {"seconds": options.seconds, "cores": cores, "results": rows}
        report.write_json(options.json, torch.device("cpu"), fields)


def _start(options: Options, config: dict[str, Any]) -> dict[str, Side]:
    """Both sides, compiled and warm."""
    base = {"data": str(options.data), "device": "cpu", "compile": False}
    whole = {**config, "micro_batch": config["batch_tokens"] // config["block_size"]}
    tasks = {
        "nanoGPT": {
            "side": "nanogpt", "dtype": "float32", "config": whole,
            "nanogpt": str(options.nanogpt),
        },
        "pygpt": {"side": "pygpt", "dtype": "auto", "config": config},
    }  # fmt: skip
    sides = {name: Side(name, {**base, **task}) for name, task in tasks.items()}
    for side in sides.values():
        side.rate(3 * options.seconds)  # pygpt's workers start meanwhile
    return sides


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    environment = {**os.environ, "PYTHONPATH": ""}
    processes = [subprocess.Popen(command, env=environment) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _row(
    name: str, load: int, cores: int, rates: dict[tuple[str, int], list[float]]
) -> dict[str, Any]:
    spread, alone = Spread.of(rates[name, load]), Spread.of(rates[name, 0])
    return {
        "name": name,
        "spinning": load,
        "tokens_per_second": dataclasses.asdict(spread),
        "of_quiet": spread.median / alone.median,
        "fair_share": cores / (cores + load),
        "times_nanogpt": spread.median / Spread.of(rates["nanoGPT", load]).median,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    report.print_table(
        f"training beside processes that spin: {report.headline(torch.device('cpu'))}",
        ("spinning", "", "tokens/s", "20–80 %", "of quiet", "fair share", "× nanoGPT"),
        [
            (
                str(row["spinning"]),
                row["name"],
                *report.cells(Spread(**row["tokens_per_second"]), decimals=0),
                f"{row['of_quiet']:.0%}",
                f"{row['fair_share']:.0%}",
                f"{row['times_nanogpt']:.1f}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    cli.run(main)
