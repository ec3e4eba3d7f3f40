"""The file of a task: in a directory of the user's, or on the Hugging Face Hub.

A file is JSON Lines, one example a line, or parquet, one example a row.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pygpt.hub.repository import Repository
from pygpt.utils.encodings import refuse_utf16
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import parse

T = TypeVar("T")
logger = logging.getLogger(__name__)

_PARQUET_BRANCH = "refs/convert/parquet"
"""The branch on which the Hub keeps every dataset as parquet, one folder a split."""


@dataclasses.dataclass(frozen=True)
class HubFile:
    """Where a task lies on the Hub."""

    repository: str
    """OWNER/NAME of the dataset."""
    config: str
    split: str

    @property
    def path(self) -> str:
        """Its path on the branch of parquet files."""
        return f"{self.config}/{self.split}/0000.parquet"


class Task(Protocol):
    """What this module needs of a task."""

    @property
    def name(self) -> str: ...
    @property
    def files(self) -> tuple[str, ...]:
        """Names that its file may have in a directory; the first is what new files are called."""

    @property
    def hub(self) -> HubFile: ...
    def read(self, path: Path) -> list[Any]:
        """The examples of its file."""


def load(task: Task, directory: Path) -> tuple[list[Any], str]:
    """The examples of a task, and where they are from: a path, or dataset, commit and file.

    The file in `directory` is taken; without one, the Hub's.

    Raises:
        InputError: there is no file here and the Hub can't be reached; or see `read`.
    """
    for name in (*task.files, f"{Path(task.files[0]).stem}.parquet"):
        path = directory / name
        if path.exists():
            return task.read(path), str(path)
    return _from_hub(task, directory)


def _from_hub(task: Task, directory: Path) -> tuple[list[Any], str]:
    hub = task.hub
    named = " or ".join(task.files)
    logger.info("no %s in %s: taking %s from the Hub", named, directory, hub.repository)
    target = f"{Path(task.files[0]).stem}.parquet"
    by_hand = (
        f"`hf download --repo-type dataset --revision {_PARQUET_BRANCH} {hub.repository} "
        f"{hub.path}`, copy that file to {directory / target}, or put {named} there"
    )
    try:
        path = Repository(hub.repository, _PARQUET_BRANCH, "dataset").get(hub.path, by_hand)
    except InputError as error:
        raise InputError(f"no {named} in {directory}, and from the Hub: {error}") from error
    if path is None:
        raise InputError(f"{hub.repository} on the Hub has no {hub.path}; put {named} there")
    # .../snapshots/COMMIT/config/split/file: the commit that the branch was at
    commit = path.parts[-1 - len(Path(hub.path).parts)]
    return task.read(path), f"{hub.repository}@{commit}/{hub.path}"


def read(path: Path, convert: Callable[[dict[str, Any]], T], example: str) -> list[T]:
    """The examples of a file.

    Args:
        path: JSON Lines, or parquet by its suffix.
        convert: a line's object → an example; KeyError, TypeError, ValueError or IndexError where
            it is of another form.
        example: a line as it should be, for the error message.

    Raises:
        InputError: a line is not JSON or of another form (file, line and an example are named), or
            the file is empty.
    """
    found = []
    for place, fields in _rows(path) if path.suffix == ".parquet" else _lines(path):
        try:
            found.append(convert(fields))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"{place} is of another form ({type(error).__name__}: {error}); a line looks like "
                f"{example}"
            ) from error
    if not found:
        raise InputError(f"{path} has no examples; a line looks like {example}")
    return found


def text(path: Path) -> str:
    """A text file.

    Raises:
        InputError: it can't be read or is not UTF-8.
    """
    try:
        data = path.read_bytes()
        refuse_utf16(path, data)
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from error


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            yield place, parse(line)
        except ValueError as error:
            raise InputError(f"{place} is not valid JSON: {error}") from error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InputError(
            'parquet files are read by pyarrow: pip install "pygpt-trainer[corpora]"'
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a whole parquet file: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row
