"""How fast `prepare` is from a parquet file to flushed shards, against the encoders alone.

::

    python bench/bench_prepare.py --megabytes 200 --workers 2

Rates on the same text and the same number of threads, in turns, in MB of UTF-8 text a second:
`prepare` (parquet in, shards out, fsync included); gigatoken in memory, with an encoder for each
thread and batches as `prepare` has them, the fastest that we found; gigatoken in memory, all
documents in one call, with its own threads; and tiktoken's encode_ordinary_batch in memory. The
text is the Python files below `--folder`, or without it this Python's standard library repeated
until it is long enough, each time with other words in place of its identifiers. Then the processor
time of each part of `prepare`, alone on the same text: what its rate is made of.

gigatoken remembers the words that it has met. From the second round on it knows all of them, so the
first round of `prepare`, which begins without any, is printed too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lib import report

from pygpt import _C
from pygpt.data.corpora.parquet import Parquet
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.encoding import BATCH_BYTES
from pygpt.data.selection import Limits
from pygpt.data.writer import prepare
from pygpt.tokenizers.gpt2 import GPT2Tokenizer
from pygpt.utils import cli
from pygpt.utils.machine import n_cpus


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure prepare against its encoders."""

    megabytes: int = 200
    """UTF-8 text to encode."""

    workers: int | None = None
    """Threads. None: one for each CPU that this process may use."""

    rounds: int = 5
    """Times that each is measured, in turns; the median counts."""

    seed: int = 0
    """Of the words that replace identifiers."""

    folder: Path | None = None
    """Where the text is taken from; None for the standard library."""

    json: Path | None = None
    """Where to write the figures."""


def texts(n_bytes: int, seed: int) -> list[str]:
    """Documents of about `n_bytes` in all."""
    rng = random.Random(seed)
    sources = ["".join(document.blocks()) for document in Stdlib().documents()]
    found: list[str] = []
    size = 0
    while size < n_bytes:
        names: dict[str, str] = {}

        def other(match: re.Match[str], names: dict[str, str] = names) -> str:
            word = match[0]
            if word not in names:
                names[word] = word if rng.random() < 0.5 else word[::-1]
            return names[word]

        for source in sources:
            text = re.sub(r"[A-Za-z]{5,}", other, source)
            found.append(text)
            size += len(text.encode())
            if size >= n_bytes:
                break
    return found


def texts_below(folder: Path, n_bytes: int) -> list[str]:
    """The first `n_bytes` of Python files, in the order of their paths."""
    found: list[str] = []
    size = 0
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text.encode())
        found.append(text)
        if size >= n_bytes:
            break
    return found


def costs(data: list[bytes], path: Path, tokenizer: GPT2Tokenizer) -> dict[str, float]:
    """Processor seconds of each part of `prepare` on its own, the least of three."""
    batches = batched(data)
    ids = np.concatenate([tokenizer.encode_batch(batch).ids for batch in batches])
    stored = ids.astype("<u2")

    def write() -> None:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(stored.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())

    parts: dict[str, Callable[[], object]] = {
        "encode": lambda: [tokenizer.encode_batch(batch) for batch in batches],
        "read parquet": lambda: [list(part.read()) for part in Parquet((path,)).parts()],
        "blake2b of the text": lambda: [_C.keyed_hashes(batch, b"0") for batch in batches],
        "sha256 of the ids": lambda: hashlib.sha256(stored),
        "uint32 to uint16": lambda: ids.astype("<u2"),
        "write and fsync": write,
    }

    def seconds(call: Callable[[], object]) -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    return {name: min(seconds(call) for _ in range(3)) for name, call in parts.items()}


def batched(data: list[bytes]) -> list[list[bytes]]:
    """Batches as `prepare` has them."""
    batches: list[list[bytes]] = [[]]
    size = 0
    for text in data:
        batches[-1].append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            batches.append([])
            size = 0
    return batches


def in_memory(
    encode: Callable[[list[bytes]], object], batches: list[list[bytes]], workers: int
) -> None:
    """Encode all batches with as many threads."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(encode, batches))


def main() -> None:
    """Measure and print."""
    options = cli.parse(Options, prog="python bench/bench_prepare.py")
    workers = options.workers or n_cpus()
    wanted = options.megabytes * 1_000_000
    documents = (
        texts_below(options.folder, wanted) if options.folder else texts(wanted, options.seed)
    )
    data = [text.encode() for text in documents]
    n_bytes = sum(map(len, data))
    tokenizer = GPT2Tokenizer()
    gigatoken = tokenizer._gigatoken
    assert gigatoken is not None, "pip install gigatoken"
    one_call = gigatoken()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.parquet"
        pq.write_table(pa.table({"text": documents}), path, row_group_size=1000)
        number = 0

        def whole() -> None:
            nonlocal number
            number += 1
            limits = Limits(shard_tokens=10_000_000)
            out = Path(folder) / f"out-{number}"
            prepare(Parquet((path,)), out, tokenizer, workers=workers, limits=limits)

        measured: dict[str, Callable[[], None]] = {
            "prepare": whole,
            "gigatoken": lambda: in_memory(tokenizer.encode_batch, batched(data), workers),
            "gigatoken, one call": lambda: one_call.encode_batch(data, parallel=True),
            "tiktoken": lambda: tokenizer._encoding.encode_ordinary_batch(
                documents, num_threads=workers
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(options.rounds):
            for name, call in measured.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
        parts = costs(data, path, tokenizer)
    rates = {name: n_bytes / 1e6 / statistics.median(times) for name, times in seconds.items()}
    rates["prepare, first round"] = n_bytes / 1e6 / seconds["prepare"][0]
    print(f"{n_bytes / 1e6:.0f} MB, {len(documents):,} documents, {workers} threads")
    for name, rate in rates.items():
        print(f"{name:<20} {rate:8.1f} MB/s")
    for name in ("tiktoken", "gigatoken", "gigatoken, one call"):
        print(f"prepare / {name:<20} {rates['prepare'] / rates[name]:6.2f}")
    for name, used in parts.items():
        print(f"{name:<20} {1000 * used:6.0f} ms of processor time")
    if options.json:
        result = {
            "options": {"megabytes": options.megabytes, "workers": workers},
            "text": "Python files" if options.folder else "standard library, other identifiers",
            "documents": len(documents),
            "megabytes_per_second": rates,
            "processor_seconds": parts,
        }
        report.write_json(options.json, torch.device("cpu"), result)


if __name__ == "__main__":
    cli.run(main)
