"""modded-nanogpt's logs: ``step:125/1695 val_loss:… train_time:…ms step_avg:…ms``.

Logs of 2024 have the training loss too, later ones only the time of each step. A log begins with
the program's source.
"""

from __future__ import annotations

import re
from pathlib import Path

from pygpt.reporting.readers.lines import number, read_lines
from pygpt.reporting.runlog import LogBuilder

NAME = "modded-nanogpt log"

_LINE = re.compile(r"step:(\d+)/(\d+) (train_loss|val_loss|loss):(\S+)(?:.*?step_avg:([\d.]+)ms)?")
_SOURCE = 'print0(f"step:{step}/{train_steps} val_loss:'
"""A line of the program, which can be longer than what is read to recognise a log."""


def matches(path: Path, head: str) -> bool:
    """A line of a step; the log begins with the source of the program, which can be long."""
    if any(_LINE.match(line) for line in head.splitlines()):
        return True
    return _SOURCE in head or ("torch._dynamo" in head and "=====" in head)


def read(path: Path, log: LogBuilder) -> None:
    """Losses of both splits, and the mean time of a step."""
    for line in read_lines(path):
        if not line.startswith("step:"):
            continue
        found = _LINE.match(line)
        step, loss = (number(found[1]), number(found[4])) if found else (None, None)
        if not found or step is None or loss is None:
            log.skipped += "loss:" in line
            continue
        log.fact("max_steps", number(found[2]), "log")
        if found[3] == "val_loss":
            log.validation(step, loss)
        else:
            milliseconds = number(found[5] or "")
            columns = {} if milliseconds is None else {"seconds": milliseconds / 1e3}
            log.train(step, loss, **columns)
