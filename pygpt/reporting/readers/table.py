"""Any CSV, TSV or JSONL file with columns of the step and of a loss."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pygpt.reporting.readers.lines import read_lines
from pygpt.reporting.runlog import LogBuilder
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import parse

NAME = "CSV or JSONL"

STEPS = ("step", "steps", "iter", "iteration", "global_step", "_step", "trainer/global_step")
LOSSES = ("train_loss", "train/loss", "loss", "train", "train/loss_step", "training_loss")
VALIDATION = (
    "val_loss", "val/loss", "validation_loss", "valid_loss", "eval_loss", "eval/loss", "val",
    "validation", "eval", "test_loss",
)  # fmt: skip
RATES = ("lr", "learning_rate", "train/lr", "train/learning_rate")
GRAD_NORMS = ("grad_norm", "gradient_norm", "train/grad_norm", "norm")
_OTHERS = {
    "lr": RATES,
    "grad_norm": GRAD_NORMS,
    "tokens": ("tokens", "total_tokens", "train/tokens"),
    "tokens_per_second": ("tokens_per_second", "tok_per_sec", "tokens/s"),
    "seconds": ("seconds", "step_seconds", "dt"),
    "mfu": ("mfu",),
}
_SEPARATORS = (",", "\t", ";", "|")


def column_for(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column that has the first of `names` that any has, in whatever case; None if none."""
    by_name = {column.strip().lower(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def matches(path: Path, head: str) -> bool:
    """A header with a separator, or lines of JSON objects."""
    first = head.lstrip().partition("\n")[0]
    return first.startswith("{") or (_separator(first) is not None and not _is_numbers(first))


def read(path: Path, log: LogBuilder) -> None:
    """Losses, and of the other columns those that are known by their names.

    Raises:
        InputError: there is no column of the step or of a loss, with the columns there are.
    """
    rows = _rows(path, log)
    use: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows:
        if not row.keys() <= seen:  # the columns of JSONL need not be in its first line
            seen |= row.keys()
            use = _choose(seen)
        _add(row, use, log)
    if not seen:
        raise InputError(f"{path} has a header and no rows; give the log of a run that has begun")
    if "step" not in use or not ({"loss", "val"} & use.keys()):
        missing = "step" if "step" not in use else "loss"
        accepted = STEPS if missing == "step" else (*LOSSES, *VALIDATION)
        raise InputError(
            f"{path} has no column of the {missing}; its columns are {', '.join(sorted(seen))}; "
            f"accepted names: {', '.join(accepted)}"
        )
    log.ignored = tuple(sorted(seen - set(use.values())))


def _choose(columns: set[str]) -> dict[str, str]:
    wanted = {"step": STEPS, "loss": LOSSES, "val": VALIDATION, **_OTHERS}
    found = {ours: column_for(columns, names) for ours, names in wanted.items()}
    return {ours: column for ours, column in found.items() if column}


def _add(row: dict[str, Any], use: dict[str, str], log: LogBuilder) -> None:
    values = {
        ours: row[column] for ours, column in use.items() if row.get(column) not in (None, "")
    }
    if "step" not in values:
        return
    try:
        numbers = {name: float(value) for name, value in values.items()}
    except (TypeError, ValueError, OverflowError):
        log.skipped += 1
        return
    step = numbers.pop("step")
    if "val" in numbers:
        log.validation(step, numbers.pop("val"))
    if "loss" in numbers:
        log.train(step, numbers.pop("loss"), **numbers)


def _rows(path: Path, log: LogBuilder) -> Iterator[dict[str, Any]]:
    lines = (line for line in read_lines(path) if line.strip() and not line.startswith("#"))
    first = next(lines, "")
    if first.lstrip().startswith("{"):
        yield from _objects(itertools.chain([first], lines), log)
        return
    separator = _separator(first) or ","
    names = [name.strip() for name in first.strip("| ").split(separator)]
    for cells in csv.reader((line.strip("| ") for line in lines), delimiter=separator):
        if len(cells) == len(names) and not _is_rule(cells):
            yield dict(zip(names, (cell.strip() for cell in cells), strict=True))
        elif not _is_rule(cells):
            log.skipped += 1


def _objects(lines: Iterable[str], log: LogBuilder) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            fields = parse(line)
        except ValueError:
            log.skipped += 1
            continue
        if isinstance(fields, dict):
            yield fields


def _separator(header: str) -> str | None:
    counts = {separator: header.count(separator) for separator in _SEPARATORS}
    best = max(counts, key=lambda separator: counts[separator])
    return best if counts[best] else None


def _is_numbers(line: str) -> bool:
    return re.fullmatch(r"[-+\d.eE,;\t| ]+", line) is not None


def _is_rule(cells: Sequence[str]) -> bool:
    """The line below the header of a Markdown table."""
    return all(set(cell.strip()) <= set("-:") for cell in cells)
