"""Text files and folders of text files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from pygpt.data.corpora.base import Document, inspect, log_left_out, some, walk
from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """UTF-8 text files, and all of those below folders; each file once.

    A file that is named must be text. In a folder, what is hidden, a link to a folder, holds NUL
    bytes or is not a regular file is left out, and that is logged; every other file must be UTF-8.
    """

    paths: tuple[Path, ...]

    @property
    def source(self) -> str:
        """See `Corpus`."""
        return ", ".join(some([str(path) for path in self.paths]))

    def documents(self) -> list[Document]:
        """See `Corpus`."""
        found: dict[Path, Document] = {}  # by resolved path
        # Unlike Path.is_file, False where one may not look.
        named = {path for path in self.paths if os.path.isfile(path)}
        common = _common_folder(self.paths, named)
        for path in self.paths:
            if path in named:
                found[path.resolve()] = Document(path, _relative(path, common))
            elif os.path.isdir(path):
                files, left_out = walk(path, skip=lambda name: name.startswith("."))
                log_left_out(
                    "hidden, a link to a folder, or no regular file", [p.name for p in left_out]
                )
                for file in files:
                    document = Document(file, _relative(file, common))
                    found.setdefault(file.resolve(), document)
            else:
                raise InputError(
                    f"there is no readable file or folder {path}; give text files, or folders"
                )
        documents = sorted(found.values(), key=lambda document: document.path)
        skip_binary = {document.path for document in documents} - named
        return inspect(documents, skip_binary, searched=self.paths)


def _common_folder(paths: Sequence[Path], files: Collection[Path]) -> str:
    """The folder that holds all of `paths`, of which `files` are no folders themselves."""
    return os.path.commonpath(
        [os.path.abspath(path.parent if path in files else path) for path in paths]
    )


def _relative(path: Path, folder: str) -> str:
    """Two files of one name in two folders are two documents, and the split draws for each."""
    return Path(os.path.relpath(path, folder)).as_posix()
