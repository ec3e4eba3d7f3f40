"""Trains with every combination of some settings and several seeds, and compares what they reach.

    python bench/sweep.py --vary optimizer=adamw,muon --vary learning_rate=1e-3,3e-3,1e-2 --seeds 3
    python bench/sweep.py --preset gpt2 --data data/owt --fix max_steps=500 --vary ...

Each run is a process of `pygpt.train` and one JSON file in --out, named by its settings. Runs whose
file is there are not repeated: a sweep that was stopped goes on, and one that is given more values
or seeds trains only what is new. The table has the final validation loss, its spread over the
seeds, the time that steps took, and the time to a loss (--target). Noise is the standard deviation
over the seeds, pooled over all settings: differences below twice that are not differences.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tyro
from lib import report

from pygpt.config import TrainConfig
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.files import replace_text


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains with every combination of some settings, and compares what they reach."""

    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A field of the configuration and its values, as learning_rate=1e-3,3e-3; may be repeated."""
    fix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A field and its value in all runs, as max_steps=500; may be repeated."""
    preset: str = "stdlib-cpu"
    """Where all other values come from."""
    data: Path | None = None
    """Dataset directory. Default: the preset's."""
    seeds: int = 3
    """Runs of each setting, with the seeds 1, 2, 3 …"""
    target: float | None = None
    """Validation loss whose time is compared, nats per token."""
    out: Path = Path("bench/results/sweep")
    """Directory of the JSON files."""

    def settings(self) -> list[dict[str, str]]:
        """Every combination of the values.

        Raises:
            InputError: a field that a run does not have, or no value.
        """
        fixed = {name: values for name, (values,) in map(_parse, self.fix)}
        varied = dict(map(_parse, self.vary))
        combinations = itertools.product(*varied.values())
        return [fixed | dict(zip(varied, values, strict=True)) for values in combinations]


def _name(text: str) -> str:
    return text.partition("=")[0].replace("-", "_")


def _parse(text: str) -> tuple[str, list[str]]:
    name, values = _name(text), text.partition("=")[2]
    if name not in {field.name for field in dataclasses.fields(TrainConfig)} or not values:
        raise InputError(f"{text}: write FIELD=VALUE,VALUE with a field of python -m pygpt.train")
    return name, values.split(",")


def main() -> None:
    """Train what is missing, then print the table."""
    options = tyro.cli(Options)
    settings = options.settings()
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = list(itertools.product(settings, range(1, options.seeds + 1)))
    for number, (setting, seed) in enumerate(jobs, 1):
        file = _file(options, setting, seed)
        if not file.exists():
            print(f"{number} of {len(jobs)}: seed {seed}, {_words(setting)}", flush=True)
            replace_text(file, json.dumps(_train(options, setting, seed), indent=2) + "\n")
    rows, noise = _rows(options, settings)
    report.print_table(
        f"{' '.join((options.preset, *options.fix))}; {options.seeds} seeds each, the best first; "
        f"noise {noise:.4f}",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )


def _file(options: Options, setting: dict[str, str], seed: int) -> Path:
    """One name for each run that would be another."""
    key = {"preset": options.preset, "data": str(options.data), "seed": seed, **setting}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return options.out / f"{options.preset}-{digest}.json"


def _train(options: Options, setting: dict[str, str], seed: int) -> dict[str, Any]:
    """Train once; what is kept of the run."""
    flags = {**setting, "preset": options.preset, "seed": str(seed), "track": ""}
    if options.data:
        flags["data"] = str(options.data)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "pygpt.train", "--out", str(out)]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{_words(setting)}: {done.stderr.strip().rpartition(chr(10))[2]}")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        (start,) = json.loads((out / "run.json").read_text())
    seconds, tokens, curve = 0.0, 0, []
    for line in lines:
        seconds += (line["tokens"] - tokens) / line["tokens_per_second"]
        tokens = line["tokens"]
        if "val_loss" in line:
            curve.append({"tokens": tokens, "seconds": seconds, "val_loss": line["val_loss"]})
    return {"setting": setting, "seed": seed, "preset": options.preset, "curve": curve, **start}


def _rows(options: Options, settings: list[dict[str, str]]) -> tuple[list[dict[str, str]], float]:
    """The table's rows, the lowest loss first, and the noise."""
    found = []
    for setting in settings:
        files = [_file(options, setting, seed) for seed in range(1, options.seeds + 1)]
        curves = [json.loads(file.read_text())["curve"] for file in files]
        losses = [curve[-1]["val_loss"] for curve in curves]
        found.append((statistics.mean(losses), losses, curves, setting))
    rows = []
    for mean, losses, curves, setting in sorted(found, key=lambda each: each[0]):
        row = {name: setting[name] for name in map(_name, options.vary)}
        row |= {"loss": f"{mean:.4f}", "range": f"{min(losses):.4f}–{max(losses):.4f}"}
        row["seconds"] = f"{statistics.median(curve[-1]['seconds'] for curve in curves):.0f}"
        if options.target is not None:
            times = [_seconds_to(curve, options.target) for curve in curves]
            median = statistics.median(times)
            row[f"seconds to {options.target:g}"] = "–" if math.isinf(median) else f"{median:.0f}"
        rows.append(row)
    variances = [statistics.variance(losses) for _, losses, *_ in found if len(losses) > 1]
    return rows, math.sqrt(statistics.mean(variances)) if variances else math.nan


def _seconds_to(curve: list[dict[str, float]], target: float) -> float:
    """When the loss came to `target`, between two evaluations along a line; inf if it never did."""
    before = None
    for point in curve:
        if point["val_loss"] <= target:
            if before is None:
                return point["seconds"]
            share = (before["val_loss"] - target) / (before["val_loss"] - point["val_loss"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return math.inf


def _words(setting: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "as it is"


if __name__ == "__main__":
    cli.run(main)
