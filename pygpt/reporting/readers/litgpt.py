"""litgpt's ``metrics.csv``, from `litgpt.pretrain` through the CSVLogger of Lightning Fabric.

The logger writes its own count over litgpt's column ``step``: the micro-batches before the row,
less one. So a step of the report is a micro-batch of one process, ``iter``, and tokens are those of
``total_tokens``. Rows have the training loss or the validation loss.
"""

from __future__ import annotations

import csv
from pathlib import Path

from pygpt.reporting.readers.lines import read_lines
from pygpt.reporting.runlog import LogBuilder

NAME = "litgpt CSV"

_COLUMNS = {"learning_rate": "lr", "total_tokens": "tokens", "iter_time": "seconds"}


def matches(path: Path, head: str) -> bool:
    """The columns that litgpt's pretraining logs."""
    names = set(head.partition("\n")[0].strip().split(","))
    return {"iter", "step", "iter_time", "loss"} <= names


def read(path: Path, log: LogBuilder) -> None:
    """Both losses by micro-batch, the learning rate, times and tokens."""
    for row in csv.DictReader(read_lines(path)):
        try:
            step = int(float(row["step"])) + 1
            if row.get("val_loss"):
                log.validation(step, float(row["val_loss"]))
            if row.get("loss"):
                columns = {ours: float(row[name]) for name, ours in _COLUMNS.items() if row[name]}
                log.train(step, float(row["loss"]), **columns)
        except (KeyError, TypeError, ValueError, OverflowError):
            log.skipped += 1
