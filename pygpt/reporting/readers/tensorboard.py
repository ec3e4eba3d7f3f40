"""TensorBoard event files, by the tensorboard library."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path

from pygpt.reporting.readers.table import GRAD_NORMS, LOSSES, RATES, VALIDATION, column_for
from pygpt.reporting.runlog import LogBuilder
from pygpt.utils.errors import InputError

NAME = "TensorBoard events"


def matches(path: Path, head: str) -> bool:
    """An event file, or a directory of them."""
    return "tfevents" in path.name or (path.is_dir() and bool(_files(path)))


def read(path: Path, log: LogBuilder) -> None:
    """Scalars, by the names that trainers give to losses.

    Raises:
        InputError: the tensorboard library is not installed, or no scalar is a loss.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            f'{path} needs the tensorboard library: pip install "pygpt-trainer[tensorboard]"'
        )
    files = _files(path) if path.is_dir() else [path]
    records = [record for file in files for record in _scalars(file)]
    tags = sorted({tag for tag, _, _ in records})
    names = {
        "loss": column_for(tags, LOSSES),
        "val": column_for(tags, VALIDATION),
        "lr": column_for(tags, RATES),
        "grad_norm": column_for(tags, GRAD_NORMS),
    }
    if not (names["loss"] or names["val"]):
        raise InputError(f"{path} has no scalar that is a loss; it has {', '.join(tags) or 'none'}")
    log.ignored = tuple(tag for tag in tags if tag not in names.values())
    steps: dict[int, dict[str, float]] = {}
    for tag, step, value in records:
        for ours, theirs in names.items():
            if tag == theirs:
                steps.setdefault(step, {})[ours] = value
    for step, values in sorted(steps.items()):
        if "val" in values:
            log.validation(step, values["val"])
        if "loss" in values:
            columns = {name: values[name] for name in ("lr", "grad_norm") if name in values}
            log.train(step, values["loss"], **columns)


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*tfevents*"))


def _scalars(path: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of each scalar; a record that is being written ends the file."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                yield value.tag, event.step, float(make_ndarray(value.tensor))
            elif value.HasField("simple_value"):
                yield value.tag, event.step, value.simple_value
