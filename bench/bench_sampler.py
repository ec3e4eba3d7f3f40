"""Measures how fast batches are made, beside nanoGPT's way and beside plain memcpy.

    python bench/bench_sampler.py
    python bench/bench_sampler.py --json bench/results/sampler.json

Every method makes batches from the same file of random ids. In each round every method runs once,
in a new order; a figure is the median over the rounds, with the 20th and 80th percentile beside it,
and the factor is the median of the rounds' own factors.

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
import functools
import hashlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from lib import report
from lib.interleaved import Interleaved, Spread

from pygpt.data import BatchSampler, TokenDataset
from pygpt.data.manifest import DatasetInfo, ShardInfo, SplitInfo
from pygpt.tokenizers.info import TokenizerInfo

CPU = torch.device("cpu")
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

    def turn(make: Callable[[int], object]) -> Callable[[], object]:
        every_step = itertools.count()

        def call() -> None:
            for step in itertools.islice(every_step, steps):
                make(step)

        return call

    timer = Interleaved({name: turn(make) for name, make in ways.items()}, CPU)
    timer.run(rounds)
    return {name: [s / steps for s in times] for name, times in timer.seconds.items()}


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


def summarise(case: tuple[str, int, int], seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row for each method of a case."""
    dtype, batch_size, block_size = case

    def median_ratio(reference: list[float], times: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(reference, times, strict=True))

    return [
        {
            "dtype": dtype,
            "batch_size": batch_size,
            "block_size": block_size,
            "method": name,
            "mtokens_per_second": dataclasses.asdict(
                Spread.of(batch_size * block_size / t / 1e6 for t in times)
            ),
            "times_nanogpt": median_ratio(seconds["nanoGPT"], times),
            "share_of_memcpy": median_ratio(seconds["memcpy"], times),
        }
        for name, times in seconds.items()
    ]


def print_warm(rows: list[dict[str, Any]]) -> None:
    """The figures of the file that is in memory."""
    report.print_table(
        f"Making batches, file in memory: {report.headline(CPU)}",
        ("ids", "batch", "method", "M tokens/s", "20–80 %", "× nanoGPT", "of memcpy"),
        [
            (
                row["dtype"],
                f"{row['batch_size']} × {row['block_size']}",
                row["method"],
                *report.cells(Spread(**row["mtokens_per_second"]), decimals=0),
                f"{row['times_nanogpt']:.1f}",
                f"{row['share_of_memcpy']:.0%}",
            )
            for row in rows
        ],
        names=3,
    )


def summarise_waits(method: str, seconds: list[float]) -> dict[str, Any]:
    """How long a batch of a file on disk takes, in µs."""
    times = [1e6 * wait for wait in seconds]
    return {
        "method": method,
        "median": statistics.median(times),
        "percentile_90": statistics.quantiles(times, n=10)[-1],
        "slowest": max(times),
    }


def print_cold(waits: list[dict[str, Any]]) -> None:
    """The figures of the file that is not in memory."""
    report.print_table(
        "Waiting for a batch, uint16, 12 × 1024, file not in memory",
        ("method", "median µs", "90th percentile µs", "slowest µs"),
        [
            (
                wait["method"],
                *(f"{wait[key]:,.0f}" for key in ("median", "percentile_90", "slowest")),
            )
            for wait in waits
        ],
    )


def main(options: Options) -> None:
    """Time every case, print the tables, write the figures."""
    rows: list[dict[str, Any]] = []
    waits: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pygpt-bench-") as folder:
        # Where scans are remembered; the user's cache is left alone.
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        datasets = {
            dtype: make_dataset(Path(folder) / dtype, options.tokens, dtype)
            for dtype in ("uint16", "uint32")
        }
        for case in CASES:
            ways = methods(datasets[case[0]], *case)
            rows += summarise(case, time_interleaved(ways, options.rounds, options.steps))
        print_warm(rows)
        if options.cold_tokens:
            directory = make_dataset(Path(folder) / "cold", options.cold_tokens, "uint16").path
            for name, read_ahead in (("pygpt", True), ("pygpt, alone", False)):
                waits.append(summarise_waits(name, time_cold(directory, read_ahead)))
            print_cold(waits)
    if options.json:
        result = {
            "options": dataclasses.asdict(options),
            "file_in_memory": rows,
            "file_not_in_memory": waits,
        }
        report.write_json(options.json, CPU, result)


if __name__ == "__main__":
    main(tyro.cli(Options))
