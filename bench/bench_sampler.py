"""Measures how fast batches are made, beside nanoGPT's way and beside plain memcpy.

    python bench/bench_sampler.py
    python bench/bench_sampler.py --json bench/results/sampler.json

Every method makes batches from the same file of random ids. In each round every method runs once,
in a new order; a figure is the median over the rounds, with the quartiles beside it, and the factor
is the median of the rounds' own factors.

- ``nanoGPT``: its ``get_batch`` restated: a new ``np.memmap`` for each call, random starts,
  ``torch.stack`` of one converted slice after another, for x and again for y.
- ``memcpy``: copies as many bytes as a batch has (x and y, int64) between two buffers.
- ``pygpt``: `pygpt.data.BatchSampler`, new tensors for each step, read-ahead on.
- ``out=`` fills the same two tensors each time; ``alone`` is without the read-ahead thread.

The last table is about a file that is not in memory: the time to wait for a batch when each is
used for 5 ms, as a training step would.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from pygpt.data import BatchSampler, TokenDataset
from pygpt.dataset_json import DatasetInfo, ShardInfo, SplitInfo, TokenizerInfo

CASES = [("uint16", 12, 1024), ("uint32", 12, 1024), ("uint16", 64, 512), ("uint32", 64, 512)]
"""(dtype of the ids, batch_size, block_size); the first is nanoGPT's default."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures how fast batches are made, beside nanoGPT's way and beside plain memcpy."""

    tokens: int = 50_000_000
    """Ids in the file that is in memory."""
    rounds: int = 21
    """How often every method is timed."""
    steps: int = 100
    """Batches in one timing."""
    cold_tokens: int = 200_000_000
    """Ids in the file that is not in memory; 0 leaves the last table out."""
    json: Path | None = None
    """Where to write the figures."""


def make_dataset(directory: Path, n_tokens: int, dtype: str) -> TokenDataset:
    """A dataset of random GPT-2 ids in one shard."""
    directory.mkdir()
    rng = np.random.default_rng()
    with open(directory / "train.bin", "wb") as file:
        for start in range(0, n_tokens, 1 << 24):
            n = min(1 << 24, n_tokens - start)
            rng.integers(0, 50257, n, dtype=dtype).tofile(file)
        os.fsync(file.fileno())
    sha256 = hashlib.sha256()
    with open(directory / "train.bin", "rb") as file:
        while chunk := file.read(1 << 24):
            sha256.update(chunk)
    tokenizer = TokenizerInfo("gpt2", n_vocab=50257, end_of_text=50256, hash="")
    split = SplitInfo(1, n_tokens, (ShardInfo("train.bin", n_tokens, sha256.hexdigest()),))
    DatasetInfo(tokenizer, dtype, {"train": split}, "random ids").write(directory)
    return TokenDataset(directory)


# --- the methods ----------------------------------------------------------------------------------


def nanogpt_batch(path: Path, dtype: str, batch_size: int, block_size: int) -> list[torch.Tensor]:
    """The method of nanoGPT, for ids of any type: (batch_size, block_size) inputs and targets."""
    ids = np.memmap(path, dtype=dtype, mode="r")
    starts = torch.randint(len(ids) - block_size, (batch_size,))

    def rows(shift: int) -> torch.Tensor:
        slices = [ids[start + shift : start + shift + block_size] for start in starts]
        return torch.stack([torch.from_numpy(row.astype(np.int64)) for row in slices])

    return [rows(0), rows(1)]


def methods(
    dataset: TokenDataset, dtype: str, batch_size: int, block_size: int
) -> dict[str, Callable[[int], object]]:
    """What is timed, by name: each makes the batch of a step."""
    source, target = np.zeros((2, 2, batch_size, block_size), np.int64)
    sampler = functools.partial(BatchSampler, dataset, batch_size, block_size)
    ahead, alone = sampler(seed=1), sampler(seed=2, read_ahead=False)
    out = (
        torch.empty(batch_size, block_size, dtype=torch.int64),
        torch.empty(batch_size, block_size, dtype=torch.int64),
    )
    path = dataset.path / "train.bin"
    return {
        "nanoGPT": lambda _: nanogpt_batch(path, dtype, batch_size, block_size),
        "memcpy": lambda _: np.copyto(target, source),
        "pygpt": ahead.batch,
        "pygpt, out=": lambda step: ahead.batch(step, out),
        "pygpt, alone": alone.batch,
        "pygpt, alone, out=": lambda step: alone.batch(step, out),
    }


def time_interleaved(
    ways: dict[str, Callable[[int], object]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds a batch of each way, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for turn in range(-1, rounds):  # the round before the first warms up
        random.shuffle(order)
        for name in order:
            make = ways[name]
            start = time.perf_counter()
            for step in range(steps):
                make((turn + 1) * steps + step)
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


# --- a file that is not in memory -----------------------------------------------------------------


def time_cold(directory: Path, read_ahead: bool, rounds: int = 3) -> list[float]:
    """Seconds until each batch of 12 × 1024 is there, when each is then used for 5 ms."""
    waits = []
    for seed in range(rounds):
        # Mapped pages stay in memory: the last round's are let go before this one's are mapped.
        sampler = dataset = None
        drop_from_memory(directory / "train.bin")
        dataset = TokenDataset(directory)
        sampler = BatchSampler(dataset, 12, 1024, seed=seed, read_ahead=read_ahead)
        for step in range(100):
            start = time.perf_counter()
            sampler.batch(step)
            waits.append(time.perf_counter() - start)
            time.sleep(0.005)
    return waits


def drop_from_memory(path: Path) -> None:
    """Have the kernel forget the pages of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# --- report ---------------------------------------------------------------------------------------


def machine() -> dict[str, str | int | None]:
    """What the figures belong to."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text() if cpuinfo.exists() else "").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pygpt": importlib.metadata.version("pygpt-trainer"),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one method in one case."""

    dtype: str
    batch_size: int
    block_size: int
    method: str
    mtokens_per_second: float
    quartiles: tuple[float, float]
    times_nanogpt: float
    share_of_memcpy: float


def summarise(case: tuple[str, int, int], seconds: dict[str, list[float]]) -> list[Row]:
    """One row for each method of a case."""

    def median_ratio(reference: list[float], times: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(reference, times, strict=True))

    rows = []
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles([case[1] * case[2] / t / 1e6 for t in times], n=4)
        times_nanogpt = median_ratio(seconds["nanoGPT"], times)
        share = median_ratio(seconds["memcpy"], times)
        rows.append(Row(*case, name, middle, (low, high), times_nanogpt, share))
    return rows


def warm_table(rows: list[Row]) -> Table:
    """The figures of one case, printed."""
    case = rows[0]
    table = Table(title=f"{case.dtype}, {case.batch_size} × {case.block_size}, file in memory")
    table.add_column("method", no_wrap=True)
    for heading in ("M tokens/s", "quartiles", "× nanoGPT", "of memcpy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.method,
            f"{row.mtokens_per_second:,.0f}",
            f"{row.quartiles[0]:,.0f} – {row.quartiles[1]:,.0f}",
            f"{row.times_nanogpt:.1f}",
            f"{row.share_of_memcpy:.0%}",
        )
    return table


@dataclasses.dataclass(frozen=True)
class Wait:
    """How long a batch of a file on disk takes, in µs."""

    method: str
    median: float
    percentile_90: float
    slowest: float


def summarise_waits(method: str, seconds: list[float]) -> Wait:
    """The figures of one method."""
    times = [1e6 * wait for wait in seconds]
    return Wait(method, statistics.median(times), statistics.quantiles(times, n=10)[-1], max(times))


def cold_table(waits: list[Wait]) -> Table:
    """The figures of the file that is not in memory, printed."""
    table = Table(title="Waiting for a batch, uint16, 12 × 1024, file not in memory")
    table.add_column("method", no_wrap=True)
    for heading in ("median µs", "90th percentile µs", "slowest µs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for wait in waits:
        figures = (wait.median, wait.percentile_90, wait.slowest)
        table.add_row(wait.method, *(f"{figure:,.0f}" for figure in figures))
    return table


def main(options: Options) -> None:
    """Time every case, print the tables, write the figures."""
    console = Console()
    about = machine()
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows: list[Row] = []
    waits: list[Wait] = []
    with tempfile.TemporaryDirectory(prefix="pygpt-bench-") as folder:
        # Where scans are remembered; the user's cache is left alone.
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        datasets = {
            dtype: make_dataset(Path(folder) / dtype, options.tokens, dtype)
            for dtype in ("uint16", "uint32")
        }
        for case in CASES:
            ways = methods(datasets[case[0]], *case)
            of_case = summarise(case, time_interleaved(ways, options.rounds, options.steps))
            console.print(warm_table(of_case))
            rows += of_case
        if options.cold_tokens:
            directory = make_dataset(Path(folder) / "cold", options.cold_tokens, "uint16").path
            for name, read_ahead in (("pygpt", True), ("pygpt, alone", False)):
                waits.append(summarise_waits(name, time_cold(directory, read_ahead)))
            console.print(cold_table(waits))
    if options.json:
        result = {
            "machine": about,
            "options": dataclasses.asdict(options),
            "file_in_memory": [dataclasses.asdict(row) for row in rows],
            "file_not_in_memory": [dataclasses.asdict(wait) for wait in waits],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
