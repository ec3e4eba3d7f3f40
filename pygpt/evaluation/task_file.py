"""JSON Lines of a task: one example a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pygpt.utils.errors import InputError

T = TypeVar("T")


def find(directory: Path, names: Sequence[str]) -> Path:
    """The first of `names` that is in `directory`.

    Raises:
        InputError: none does.
    """
    for name in names:
        if (directory / name).exists():
            return directory / name
    raise InputError(
        f"no {' or '.join(names)} in {directory}; put it there or give --task-data DIR"
    )


def read(path: Path, convert: Callable[[dict[str, Any]], T], example: str) -> list[T]:
    """The examples of a file.

    Args:
        path: the file.
        convert: a line's object → an example; KeyError, TypeError, ValueError or IndexError where
            it is of another form.
        example: a line as it should be, for the error message.

    Raises:
        InputError: a line is not JSON or of another form (file, line and an example are named), or
            the file is empty.
    """
    found = []
    for number, line in _lines(path):
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not valid JSON: {error}") from error
        try:
            found.append(convert(fields))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number} is of another form ({type(error).__name__}: {error}); a "
                f"line looks like {example}"
            ) from error
    if not found:
        raise InputError(f"{path} has no examples; a line looks like {example}")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line
