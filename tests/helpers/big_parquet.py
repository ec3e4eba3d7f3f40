"""Large parquet files of varied text, and the memory that preparing one takes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, n_bytes: int, seed: int) -> None:
    """A column "text" of about `n_bytes` of UTF-8, in row groups of 10 MB, one in memory."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choices("abcdefghijklmnoprstuvwy", k=rng.randint(2, 9))) for _ in range(20_000)
    ]
    schema = pa.schema([("text", pa.string())])
    size = 0
    with pq.ParquetWriter(path, schema) as writer:
        while size < n_bytes:
            texts = []
            group = 0
            while group < min(10_000_000, n_bytes - size):
                text = " ".join(rng.choices(words, k=rng.randint(100, 2000)))
                texts.append(text)
                group += len(text)
            writer.write_table(pa.table({"text": texts}, schema=schema))
            size += group


def peak_of_prepare(path: Path, out: Path) -> int:
    """Bytes of memory that ``prepare parquet`` held at most; Linux counts in kB."""
    command = [sys.executable, "-m", "pygpt.prepare", "parquet", str(path), "--out", str(out)]
    process = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return 1024 * usage.ru_maxrss
