"""llm.c's ``main.log``: ``s:STEP trl:LOSS lr:RATE norm:NORM``, ``s:STEP tel:LOSS``, ``eval:``."""

from __future__ import annotations

import re
from pathlib import Path

from pygpt.reporting.readers.lines import read_lines
from pygpt.reporting.runlog import LogBuilder

NAME = "llm.c main.log"

_LINE = re.compile(r"s:(\d+) (?:trl|tel|eval):\S+")


def matches(path: Path, head: str) -> bool:
    """A line of it among the first."""
    return any(_LINE.match(line) for line in head.splitlines()[:200])


def read(path: Path, log: LogBuilder) -> None:
    """Losses of both splits, the learning rate, the gradient's norm, and HellaSwag."""
    for line in read_lines(path):
        if not line.startswith("s:"):
            continue
        try:
            fields = dict(word.split(":", 1) for word in line.split())
            step = float(fields["s"])
            if "trl" in fields:
                names = {"lr": "lr", "norm": "grad_norm"}
                columns = {names[key]: float(fields[key]) for key in names if key in fields}
                log.train(step, float(fields["trl"]), **columns)
            elif "tel" in fields:
                log.validation(step, float(fields["tel"]))
            elif "eval" in fields:
                log.scores["HellaSwag"] = float(fields["eval"])
        except (ValueError, KeyError):
            log.skipped += 1
