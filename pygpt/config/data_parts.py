"""Which datasets a run reads, and in what proportions: ``A:0.7 B:0.3``."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataPart:
    """One dataset of a run, and its share of the batch's sequences."""

    path: Path
    weight: float = 1.0
    """Relative to the sum of all weights."""


def parse_data(texts: Sequence[str]) -> tuple[DataPart, ...]:
    """``["data/a:0.7", "data/b:0.3"]`` as paths with weights; a path alone has the weight 1.

    Only a number behind the last colon is a weight, and only if no directory has the whole text as
    its name: ``C:/data`` and an existing ``runs:2`` are paths.

    Raises:
        InputError: a weight that is not a positive number, or a path that is given twice.
    """
    parts = tuple(map(_parse, texts))
    paths = [part.path for part in parts]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"--data {path} is given twice; give it once with the sum of weights")
    return parts


def format_data(parts: Sequence[DataPart]) -> tuple[str, ...]:
    """The texts that `parse_data` reads back; a single path has no weight."""
    if len(parts) == 1:
        return (str(parts[0].path),)
    return tuple(f"{part.path}:{part.weight!r}" for part in parts)


def _parse(text: str) -> DataPart:
    path, colon, weight = text.rpartition(":")
    if not colon or os.path.isdir(text):
        path, weight = text, "1"
    try:
        value = float(weight)
    except ValueError:
        path, value = text, 1.0
    if not path:
        raise InputError("--data is empty; give a path, or leave it out")
    if not 0 < value < math.inf:
        raise InputError(f"--data {text}: a weight is a positive number, as in PATH:0.7")
    return DataPart(Path(path), value)
