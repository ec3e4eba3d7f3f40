"""Lines of a text file of any size, however it was encoded, also while it is being written."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from pygpt.utils.errors import InputError

HEAD = 1 << 16
"""Bytes that the format is recognised from."""

LONGEST = 1 << 20
"""Characters of a line; a longer one is cut into several."""


def encoding(path: Path) -> str:
    """UTF-16 where a byte order mark says so (PowerShell's `>`), else UTF-8.

    Raises:
        InputError: the file can't be read, is empty, or is not text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    if not head.strip():
        raise InputError(f"{path} is empty; give the log of a run that has begun")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise InputError(f"{path} is not a text file, and not a TensorBoard event file either")
    return "utf-8-sig"


def read_lines(path: Path) -> Iterator[str]:
    """Its lines, without their ends; bytes that are not in the encoding become U+FFFD.

    Raises:
        InputError: see `encoding`.
    """
    with path.open(encoding=encoding(path), errors="replace") as file:
        while line := file.readline(LONGEST):
            yield line.rstrip("\n")


def number(text: str) -> float | None:
    """The number that a text writes, commas between thousands left out; None if it is not one.

    A whole number of up to 16 digits is an int, as facts are.
    """
    text = text.replace(",", "")
    try:
        return int(text) if text.isdecimal() and len(text) <= 16 else float(text)
    except ValueError:
        return None


def head(path: Path) -> str:
    """The text it begins with.

    Raises:
        InputError: see `encoding`.
    """
    with path.open(encoding=encoding(path), errors="replace") as file:
        return file.read(HEAD)
