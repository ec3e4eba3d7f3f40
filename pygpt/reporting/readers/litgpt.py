"""litgpt's ``metrics.csv``: Lightning's CSV logger, whose rows have either loss."""

from __future__ import annotations

import csv
from pathlib import Path

from pygpt.reporting.readers.lines import read_lines
from pygpt.reporting.runlog import LogBuilder

NAME = "litgpt CSV"

_COLUMNS = {"learning_rate": "lr", "total_tokens": "tokens"}


def matches(path: Path, head: str) -> bool:
    """The columns that litgpt's pretraining logs."""
    names = set(head.partition("\n")[0].strip().split(","))
    return {"iter", "step", "iter_time", "loss"} <= names


def read(path: Path, log: LogBuilder) -> None:
    """Losses by optimiser step; a step of several micro-batches has several rows."""
    rows = csv.DictReader(read_lines(path))
    step, columns = -1, dict[str, float]()  # of the step whose rows are being read
    losses: list[float] = []
    for row in rows:
        try:
            now = int(float(row["step"]))
            if row.get("val_loss"):
                log.validation(now, float(row["val_loss"]))
            if not row.get("loss"):
                continue
            loss = float(row["loss"])
        except (TypeError, ValueError):
            log.skipped += 1
            continue
        if now != step and losses:
            log.train(step, sum(losses) / len(losses), **columns)
            losses = []
        step = now
        losses.append(loss)
        columns = {ours: float(row[name]) for name, ours in _COLUMNS.items() if row.get(name)}
    if losses:
        log.train(step, sum(losses) / len(losses), **columns)
