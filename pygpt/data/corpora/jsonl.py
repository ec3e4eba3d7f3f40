"""JSON lines: one object a line, its text in one field.

Example line::

    {"text": "Once upon a time…", "url": "…"}
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from pygpt.data.corpora.base import some
from pygpt.data.corpora.compressed import check_files, open_compressed, read_errors
from pygpt.data.corpora.parts import Part, Unreadable
from pygpt.data.corpora.record_files import RecordFiles
from pygpt.utils.json_file import parse


@dataclasses.dataclass(frozen=True)
class JsonLines(RecordFiles):
    """Files of JSON lines, which may be compressed; each file is a part."""

    def parts(self) -> Sequence[Part]:
        """See `Records`."""
        check_files(self.files)
        return [
            Part(str(path), path.stat().st_size, lambda path=path: self._read(path))  # type: ignore[misc]
            for path in self.files
        ]

    def _read(self, path: Path) -> Iterator[str | Unreadable]:
        return read_json_lines(path, self.text_column)


def read_json_lines(path: Path, text_column: str) -> Iterator[str | Unreadable]:
    """The texts of a file, in order. What comes behind damage of the file is not read."""
    try:
        with open_compressed(path) as file:
            for number, line in enumerate(file):
                content = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
                if content.strip():
                    yield _text(content, text_column, number)
    except read_errors() as error:
        yield Unreadable(f"the file is damaged or cut off here ({error!r})")


def _text(line: bytes, column: str, number: int) -> str | Unreadable:
    try:
        fields = parse(line.decode("utf-8"))
    except ValueError as error:
        return Unreadable(f"line {number + 1} is not UTF-8 JSON ({error})")
    if not isinstance(fields, dict):
        return Unreadable(f"line {number + 1} is not a JSON object")
    if column not in fields:
        return Unreadable(
            f"line {number + 1} has no field {column!r} but {', '.join(some([*fields]))}; "
            "choose one with --text-column"
        )
    text = fields[column]
    if not isinstance(text, str):
        kind = "null" if text is None else f"a {type(text).__name__}"
        return Unreadable(f"line {number + 1}: {column!r} is {kind}, not a string")
    return text
