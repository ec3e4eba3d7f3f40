"""Finds the documents of a corpus, reads them block by block, and divides them into splits.

One file is one document. A corpus (`Stdlib` or `TextFiles`) finds its documents and reads each
once, so that a file which can't be used is known before any work is done; `Document.blocks` reads
it again, in pieces that can be encoded by themselves; `split` says which documents are for
validation.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import logging
import os
import platform
import sysconfig
import tokenize
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pygpt.tokenizers.base import last_safe_break
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20

# Folders in the standard library that hold its tests, or packages that are not part of it.
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages"}

_SHOWN = 10  # files named in one message


class _BinaryFileError(InputError):
    """A file with NUL bytes: no text."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A text file, or a stretch of one."""

    path: Path
    name: str
    """Path below the folder that all of the corpus lies in, with slashes: the split is drawn from
    it."""
    encoding: str = "utf-8"
    start: int = 0
    """The first byte of the stretch in the file."""
    stop: int | None = None
    """The byte behind the stretch; None for the file's end."""
    n_bytes: int = 0
    """UTF-8 bytes of its text; 0 until a corpus has measured it."""

    def blocks(self) -> Iterator[str]:
        """The text, in pieces of about BLOCK_BYTES whose ids, joined, are those of the whole.

        A text with no safe place to cut (see `last_safe_break`) comes out in one piece.

        Raises:
            InputError: the file can't be read, holds NUL bytes, or is not in its encoding.
        """
        pieces: list[str] = []
        for chunk in self._chunks():
            cut = last_safe_break(chunk)
            if cut:
                yield "".join([*pieces, chunk[:cut]])
                pieces.clear()
            pieces.append(chunk[cut:])
        rest = "".join(pieces)
        if rest:
            yield rest

    def _chunks(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        for offset, data in self._read():
            if b"\0" in data:
                raise _BinaryFileError(
                    f"{self.path} has a NUL byte at offset {offset + data.index(0)}: it is no text"
                )
            undecoded = len(decoder.getstate()[0])  # bytes of a character begun in the chunk before
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.path} is not valid {self.encoding} at byte "
                    f"{offset - undecoded + error.start} ({error.reason}); convert it or leave it "
                    "out"
                ) from error

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """Chunks with their offsets; the last is empty."""
        offset = self.start
        stop = float("inf") if self.stop is None else self.stop
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                while data := file.read(int(min(BLOCK_BYTES, stop - offset))):
                    yield offset, data
                    offset += len(data)
        except OSError as error:
            raise InputError(f"{self.path} can't be read: {error.strerror}") from error
        yield offset, b""


class Corpus(Protocol):
    """Where documents come from."""

    @property
    def source(self) -> str:
        """What a reader of ``dataset.json`` is told."""

    def documents(self) -> list[Document]:
        """Every document that holds text, measured, sorted by path.

        Raises:
            InputError: there is none, or a file can't be used; all such files are named.
        """


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
        files, _ = _walk(self.folder, skip=_NOT_STDLIB.__contains__)
        modules = [
            Document(path, path.relative_to(self.folder).as_posix(), _source_encoding(path))
            for path in files
            if path.suffix == ".py"
        ]
        return _inspect(modules, skip_binary=set(), searched=[self.folder])


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """UTF-8 text files, and all of those below folders; each file once.

    A file that is named must be text. In a folder, what is hidden, a link to a folder, holds NUL
    bytes or is no regular file is left out, and that is logged; every other file must be UTF-8.
    """

    paths: tuple[Path, ...]

    @property
    def source(self) -> str:
        """See `Corpus`."""
        return ", ".join(_some([str(path) for path in self.paths]))

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
                files, left_out = _walk(path, skip=lambda name: name.startswith("."))
                _log_left_out(
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
        return _inspect(documents, skip_binary, searched=self.paths)


def split(
    documents: Sequence[Document], val_fraction: float, seed: int
) -> list[tuple[str, Document]]:
    """Say "train" or "val" for each document, in their order.

    Each document draws a number in [0, 1) from a hash of its name keyed by the seed, and is for
    validation if that is below `val_fraction`: documents added later move none of the others. If
    all would fall on one side, the nearest to the other goes there. A single document is cut in
    two, the validation text last.

    Raises:
        InputError: a single document that is too short to cut.
    """
    if len(documents) == 1:
        head, tail = _cut(documents[0], val_fraction)
        return [("train", head), ("val", tail)]
    drawn = [_draw(document.name, seed) for document in documents]
    order = sorted(range(len(documents)), key=drawn.__getitem__)
    n_val = sum(number < val_fraction for number in drawn)
    val = set(order[: min(max(n_val, 1), len(documents) - 1)])
    return [("val" if i in val else "train", document) for i, document in enumerate(documents)]


def _draw(name: str, seed: int) -> float:
    digest = hashlib.blake2b(os.fsencode(name), key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _cut(document: Document, val_fraction: float) -> tuple[Document, Document]:
    """Cut a UTF-8 file so that `val_fraction` of its bytes, or a little more, lie behind the cut.

    The cut is behind a line if one ends near enough for the validation text to at most double, else
    between two characters.
    """
    val_bytes = max(round(document.n_bytes * val_fraction), 1)
    target = max(document.n_bytes - val_bytes, 0)
    # At least the 3 bytes that a character may have before its last.
    first = max(target - max(min(val_bytes, BLOCK_BYTES), 3), 0)
    with document.path.open("rb") as file:
        file.seek(first)
        before = file.read(target - first + 1)  # up to the first byte of the validation text
    newline = before.rfind(b"\n", 0, -1)
    cut = target if newline < 0 else first + newline + 1
    while cut > first and before[cut - first] & 0xC0 == 0x80:  # a character's later bytes
        cut -= 1
    if cut == 0:
        raise InputError(
            f"{document.path}, the only document, is too short ({document.n_bytes} bytes) to cut "
            "into a train and a val split; give more text"
        )
    logger.info(
        "%s is the only document: its last %d of %d bytes become the val split",
        *(document.path, document.n_bytes - cut, document.n_bytes),
    )
    return (
        dataclasses.replace(document, stop=cut, n_bytes=cut),
        dataclasses.replace(document, start=cut, n_bytes=document.n_bytes - cut),
    )


def _common_folder(paths: Sequence[Path], files: Collection[Path]) -> str:
    """The folder that holds all of `paths`, of which `files` are no folders themselves."""
    return os.path.commonpath(
        [os.path.abspath(path.parent if path in files else path) for path in paths]
    )


def _relative(path: Path, folder: str) -> str:
    """Two files of one name in two folders are two documents, and the split draws for each."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _walk(folder: Path, skip: Callable[[str], bool]) -> tuple[list[Path], list[Path]]:
    """Regular files below a folder, sorted, and what was left out of them.

    Files and folders whose name is to be skipped are left out, links to folders, which may lead
    round in a circle, and what is no regular file.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} can't be listed: {error.strerror}") from error

    files: list[Path] = []
    left_out: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        left_out += [
            p for p in (Path(root, name) for name in folders) if skip(p.name) or p.is_symlink()
        ]
        folders[:] = [name for name in folders if not skip(name)]
        for path in (Path(root, name) for name in names):
            (left_out if skip(path.name) or not os.path.isfile(path) else files).append(path)
    return sorted(files), sorted(left_out)


def _inspect(
    candidates: Iterable[Document], skip_binary: set[Path], searched: Sequence[Path]
) -> list[Document]:
    """Read every document once: measure it, leave out the empty, refuse what is not text."""
    documents: list[Document] = []
    empty: list[str] = []
    binary: list[str] = []
    problems: list[str] = []
    for document in candidates:
        try:
            n_bytes = sum(len(block.encode()) for block in document.blocks())
        except InputError as error:
            if isinstance(error, _BinaryFileError) and document.path in skip_binary:
                binary.append(document.name)
            else:
                problems.append(str(error))
            continue
        if n_bytes:
            documents.append(dataclasses.replace(document, n_bytes=n_bytes))
        else:
            empty.append(document.name)
    if problems:
        raise InputError("\n  ".join(_some(problems)))
    _log_left_out("binary", binary)
    _log_left_out("empty", empty)
    if not documents:
        places = ", ".join(_some([str(path) for path in searched]))
        raise InputError(f"no text in {places}; give files, or folders of files, that hold text")
    return documents


def _source_encoding(path: Path) -> str:
    """The encoding that a Python file declares (PEP 263)."""
    try:
        with path.open("rb") as file:
            return tokenize.detect_encoding(file.readline)[0]
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except SyntaxError as error:
        raise InputError(f"{path} declares no valid encoding: {error.msg}") from error


def _log_left_out(why: str, names: Sequence[str]) -> None:
    if names:
        logger.info("left out as %s: %d (%s)", why, len(names), ", ".join(_some(names)))


def _some(texts: Sequence[str]) -> list[str]:
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return [*texts[:_SHOWN], *more]
