"""Prepares 2 GB of parquet and says how much memory it took: less than 1 GB.

::

    python -m tests.campaigns.parquet_memory --megabytes 2000
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from pygpt.utils import cli
from tests.helpers.big_parquet import peak_of_prepare, write_parquet


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory of prepare."""

    megabytes: int = 2000
    """UTF-8 text in the file."""

    seed: int = 0
    """Of the text."""


def main() -> None:
    """Measure, print, and fail at 1 GB."""
    options = cli.parse(Options, prog="python -m tests.campaigns.parquet_memory")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.parquet"
        write_parquet(path, options.megabytes * 1_000_000, options.seed)
        start = time.perf_counter()
        peak = peak_of_prepare(path, Path(folder) / "out")
        seconds = time.perf_counter() - start
    print(f"{options.megabytes} MB of text in {seconds:.0f} s, {peak / 1e6:.0f} MB of memory")
    assert peak < 1e9


if __name__ == "__main__":
    cli.run(main)
