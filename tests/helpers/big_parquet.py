"""Large parquet files of varied text, and the memory that preparing one takes."""

from __future__ import annotations

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


# VmHWM begins with the program. ru_maxrss does not: it has the peak of the process that forked.
_MEASURED = """
import atexit, runpy, sys
from pathlib import Path
status = Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().partition("VmHWM:")[2].split()[0]))
runpy.run_module("pygpt.prepare", run_name="__main__", alter_sys=True)
"""


def peak_of_prepare(path: Path, out: Path) -> int:
    """Bytes of memory that ``prepare parquet`` held at most; Linux counts in kB."""
    command = ["parquet", str(path), "--out", str(out), "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return 1024 * int(done.stdout.split()[-1])
