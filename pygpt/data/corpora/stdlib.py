"""The standard library of the running Python: a corpus that every machine has."""

from __future__ import annotations

import dataclasses
import platform
import sysconfig
import tokenize
from pathlib import Path

from pygpt.data.corpora.base import Document, inspect, walk
from pygpt.utils.errors import InputError

# Folders in the standard library that hold its tests, or packages that are not part of it.
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


@dataclasses.dataclass(frozen=True)
class Stdlib:
    """The standard library of the Python that runs, without its tests: about 12 MB of Python."""

    folder: Path = dataclasses.field(default_factory=lambda: Path(sysconfig.get_path("stdlib")))

    @property
    def source(self) -> str:
        """See `Corpus`."""
        return f"the standard library of Python {platform.python_version()}"

    def documents(self) -> list[Document]:
        """See `Corpus`. Each module is read in the encoding it declares."""
        files, _ = walk(self.folder, skip=_NOT_STDLIB.__contains__)
        modules = [
            Document(path, path.relative_to(self.folder).as_posix(), _source_encoding(path))
            for path in files
            if path.suffix == ".py"
        ]
        return inspect(modules, skip_binary=set(), searched=[self.folder])


def _source_encoding(path: Path) -> str:
    """The encoding that a Python file declares (PEP 263)."""
    try:
        with path.open("rb") as file:
            return tokenize.detect_encoding(file.readline)[0]
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except SyntaxError as error:
        raise InputError(f"{path} declares no valid encoding: {error.msg}") from error
