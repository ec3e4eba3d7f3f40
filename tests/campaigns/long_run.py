"""A long run: its memory, file descriptors and threads; and a week as the clock shows it.

::

    nice python -m tests.campaigns.long_run --steps 100_000

A tiny model trains, evaluates, saves and prunes, and a report of the run is written over and over.
The memory (RssAnon) of the training process is sampled while it trains. The slope of a line through
it, with the first fifth left out, has a 95 % interval from the means of 20 blocks of samples. Its
lower end, times the steps, must stay below 1.5 MB: the allocator needs some thousand steps to find
its places, and rich keeps the times of the last 1000. Descriptors and threads must not become more.

Then some steps are trained under a clock that goes so fast that they take a week: what the
terminal, metrics.jsonl and the report say of time and rate must be right. Exits with 1 otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import numpy as np

from pygpt.utils import cli
from tests.helpers import processes
from tests.helpers.processes import Started, start

BLOCKS = 20
T_95 = 2.101  # Student's t, 18 degrees of freedom
MAX_GROWTH = 1.5e6
"""Bytes, over all steps."""
WEEK = 7 * 86400
CLOCK_STEPS = 120
HANGS = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Options:
    """Train long, and count memory, descriptors and threads."""

    steps: int = 100_000
    """Of the long run."""

    log: Path | None = None
    """Where the samples go, as JSON lines. None: nowhere."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process has, at a step."""

    step: int
    memory: int
    """Bytes of RssAnon: what it has allocated; mapped files are not counted."""
    descriptors: int
    threads: int


def train_flags(data: Path, out: Path, steps: int, interval: int) -> list[str]:
    """Flags of a tiny model."""
    return f"""
        --preset shakespeare-char --n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --dropout 0
        --batch-tokens 16 --max-steps {steps} --lr-decay-steps {steps} --warmup-steps 2
        --eval-interval {interval} --eval-tokens 64 --checkpoint-interval {interval}
        --keep-checkpoints 2 --device cpu --dtype float32 --compile False
        --data {data} --out {out}
    """.split()


def prepare(folder: Path) -> Path:
    """A dataset of this package's source."""
    files = [str(path) for path in sorted(Path(cli.__file__).parents[1].glob("*/*.py"))]
    words = ["text", *files, "--tokenizer", "bytes", "--out", str(folder / "data")]
    finish(start("prepare", words, folder / "log"))
    return folder / "data"


def finish(process: Started) -> str:
    """Wait for a command; its output."""
    process.wait(HANGS)
    process.close()
    if any(process.status.values()):
        sys.exit(process.output())
    return process.output()


def sample(pid: int, step: int) -> Sample:
    """A living process."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024
    threads = int(re.findall(r"Threads:\s+(\d+)", status)[0])
    return Sample(step, memory, len(os.listdir(f"/proc/{pid}/fd")), threads)


def long_run(folder: Path, data: Path, steps: int) -> list[Sample]:
    """Train `steps` steps beside reports; samples of the training process."""
    out = folder / "long"
    words = train_flags(data, out, steps, interval=max(20, steps // 200))
    process = start("train", words, folder / "log")
    samples: list[Sample] = []
    reports = 0
    seconds = 0.05
    while not process.wait(seconds):
        if "first step" not in process.seen:
            continue
        step = last_step(out / "metrics.jsonl")
        if samples and step - samples[-1].step < steps // 2000:
            continue
        try:
            samples.append(sample(process.pids[0], step))
        except (FileNotFoundError, ProcessLookupError, IndexError):  # it ends just now
            continue
        if step > (reports + 1) * steps / 10:
            reports += 1
            finish(start("report", [str(out)], folder / "report.log"))
    finish(process)
    print(f"{steps} steps, {len(samples)} samples, {reports} reports meanwhile", flush=True)
    return samples


def last_step(metrics: Path) -> int:
    """The step of the last whole line."""
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 2000))
        lines = file.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def slope(samples: list[Sample]) -> tuple[float, float]:
    """Bytes a step, and half the width of its 95 % interval, from the means of BLOCKS blocks.

    Samples that follow each other are alike; the means of blocks are nearly independent.
    """
    blocks = np.array_split(np.array([(s.step, s.memory) for s in samples], float), BLOCKS)
    x, y = np.array([block.mean(axis=0) for block in blocks]).T
    x_spread = ((x - x.mean()) ** 2).sum()
    b = ((x - x.mean()) * (y - y.mean())).sum() / x_spread
    residuals = y - y.mean() - b * (x - x.mean())
    deviation = math.sqrt((residuals**2).sum() / (BLOCKS - 2))
    return b, T_95 * deviation / math.sqrt(x_spread)


def judge(samples: list[Sample]) -> list[str]:
    """Print the figures; what is wrong with them."""
    later = samples[len(samples) // 5 :]
    b, half = slope(later)
    first, last = later[0], later[-1]
    print(f"memory {first.memory / 1e6:.1f} MB at step {first.step}, {last.memory / 1e6:.1f} MB at "
          f"step {last.step}; slope {b:.1f} ± {half:.1f} bytes a step (95 %)")  # fmt: skip
    wrong = []
    if (b - half) * (last.step - first.step) > MAX_GROWTH:
        wrong.append("the memory grows")
    for name in ("descriptors", "threads"):
        values = [getattr(each, name) for each in later]
        n = len(values) // 4
        print(f"{name}: {min(values)} to {max(values)}, at the end {values[-1]}")
        # Some come and go with a checkpoint: medians of the first and the last quarter.
        if statistics.median(values[-n:]) > statistics.median(values[:n]):
            wrong.append(f"more {name} at the end")
    return wrong


def week(folder: Path, data: Path) -> list[str]:
    """Train under a clock by which it takes about a week; what is wrong with what it says."""
    out = folder / "week"
    words = train_flags(data, out, CLOCK_STEPS, interval=40)
    words += ["--log-interval", "10", "--track", ""]
    finish(start("train", train_flags(data, folder / "usual", CLOCK_STEPS, 40), folder / "log"))
    rates = [line["tokens_per_second"] for line in read(folder / "usual" / "metrics.jsonl")]
    factor = WEEK / sum(16 / rate for rate in rates)
    output = finish(start("train", words, folder / "log", before=lambda: speed_up(factor)))
    shown = [line for line in output.splitlines() if " left" in line or "took" in line]
    print("\n".join(shown))
    lines = read(out / "metrics.jsonl")
    seconds = sum(16 / line["tokens_per_second"] for line in lines)
    print(f"a clock {factor:,.0f} times as fast: {seconds / 86400:.2f} days by metrics.jsonl")
    wrong = []
    took = re.findall(r"this start took ([\d.]+) days", output)
    if not took or float(took[0]) * 86400 < 0.99 * seconds:
        wrong.append(f"it took {seconds / 86400:.1f} days, and it says {took}")
    for step, left in re.findall(r"^step (\d+)/.*MFU \S+  (.+) left$", output, re.M):
        days, _, clock = left.rpartition("day")
        if not re.fullmatch(r"s?(, )?\d{1,2}:\d\d:\d\d", clock):
            wrong.append(f"step {step}: {left!r} is left")
        elif int(step) == CLOCK_STEPS // 2 and not days:
            wrong.append(f"half of a week is {left}")
    return wrong


def speed_up(factor: float) -> None:
    """Let the clocks of this process go faster from now on, as Python's code sees them."""
    for name in ("time", "monotonic", "perf_counter"):
        real = getattr(time, name)
        began = real()
        setattr(time, name, lambda real=real, began=began: began + (real() - began) * factor)


def read(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Run the campaign."""
    options = cli.parse(Options, prog="python -m tests.campaigns.long_run")
    processes.import_all()
    with tempfile.TemporaryDirectory(prefix="pygpt-long-") as name:
        folder = Path(name)
        data = prepare(folder)
        wrong = week(folder, data)
        samples = long_run(folder, data, options.steps)
        if options.log:
            lines = [json.dumps(dataclasses.asdict(each)) for each in samples]
            options.log.write_text("\n".join(lines), encoding="utf-8")
        wrong += judge(samples)
    print("\n".join(wrong) or "flat")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    cli.run(main)
