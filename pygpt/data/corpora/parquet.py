"""Parquet files: one document a row, its text in one column. Only that column is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pygpt.data.corpora.base import some
from pygpt.data.corpora.compressed import check_files, needed
from pygpt.data.corpora.parts import Part, Unreadable
from pygpt.data.corpora.record_files import RecordFiles
from pygpt.utils.errors import InputError

_BATCH_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Parquet(RecordFiles):
    """Parquet files; each row group is a part."""

    def parts(self) -> Sequence[Part]:
        """See `Records`. Reads the footers."""
        check_files(self.files)
        return [part for path in self.files for part in row_groups(path, self.text_column)]


def row_groups(path: Path, column: str) -> list[Part]:
    """The row groups of a file as parts, ``PATH#0`` and so on.

    Raises:
        InputError: the file is not parquet, is cut off, or has no such column of text.
    """
    parquet = needed("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, column)
            names = [file.schema.column(i).path for i in range(len(file.schema))]
            at = names.index(column)
            sizes = [
                file.metadata.row_group(i).column(at).total_uncompressed_size
                for i in range(file.num_row_groups)
            ]
    except _errors() as error:
        raise InputError(
            f"{path} is not a whole parquet file ({error}); download it again or leave it out"
        ) from error

    def part(index: int) -> Part:
        return Part(f"{path}#{index}", sizes[index], lambda: _read(path, index, column))

    return [part(index) for index in range(len(sizes))]


def _errors() -> tuple[type[Exception], ...]:
    return (needed("pyarrow").ArrowException, OSError)


def _check_column(path: Path, schema: Any, column: str) -> None:
    types = needed("pyarrow").types
    if column not in schema.names:
        raise InputError(
            f"{path} has no column {column!r}; it has {', '.join(some(schema.names))}: choose one "
            "with --text-column"
        )
    kind = schema.field(column).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value) or types.is_large_string(value) or types.is_binary(value)):
        raise InputError(
            f"column {column!r} of {path} holds {kind} and not strings; choose another with "
            "--text-column"
        )


def _read(path: Path, index: int, column: str) -> Iterator[bytes | Unreadable]:
    parquet = needed("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[index], columns=[column]):
                yield from _texts(batch.column(0))
    except _errors() as error:
        yield Unreadable(f"the row group is damaged here ({error!r})")


def _texts(array: Any) -> list[bytes | Unreadable]:
    """UTF-8 as it lies in an array: to make a str of each costs more than reading it."""
    arrow = needed("pyarrow")
    array = array.cast(arrow.large_binary())
    values: list[Any] = array.to_pylist()
    try:
        array.cast(arrow.large_string())  # checks the UTF-8 of all
        checked = not array.null_count
    except arrow.ArrowInvalid:
        checked = False
    return values if checked else [_text(value) for value in values]


def _text(value: bytes | None) -> bytes | Unreadable:
    if value is None:
        return Unreadable("null, not a string")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8 ({error})")
    return value
