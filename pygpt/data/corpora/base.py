"""What all corpora share: documents, how files are found and read, and the split.

One file is one document. A corpus finds its documents and reads each once, so that a file which
can't be used is reported before any work is done. `Document.blocks` reads it again, in pieces that
can be encoded separately; `split` assigns documents to train and val.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pygpt.tokenizers.base import last_safe_break
from pygpt.utils.encodings import refuse_utf16
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20

_SHOWN = 10  # files named in one message


class BinaryFileError(InputError):
    """A file with NUL bytes: not a text file."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A text file, or a stretch of one."""

    path: Path
    name: str
    """Path below the folder that holds the whole corpus, with slashes: the split is drawn from
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
            if offset == 0:
                refuse_utf16(self.path, data)
            if b"\0" in data:
                raise BinaryFileError(
                    f"{self.path} has a NUL byte at offset {offset + data.index(0)}: not a text "
                    "file"
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
    end = document.start + document.n_bytes
    target = max(end - val_bytes, document.start)
    # At least the 3 bytes that a character may have before its last.
    first = max(target - max(min(val_bytes, BLOCK_BYTES), 3), document.start)
    with document.path.open("rb") as file:
        file.seek(first)
        before = file.read(target - first + 1)  # up to the first byte of the validation text
    newline = before.rfind(b"\n", 0, -1)
    cut = target if newline < 0 else first + newline + 1
    while cut > first and before[cut - first] & 0xC0 == 0x80:  # a character's later bytes
        cut -= 1
    if cut == document.start:
        raise InputError(
            f"{document.path}, the only document, is too short ({document.n_bytes} bytes) to cut "
            "into a train and a val split; give more text"
        )
    logger.info(
        "%s is the only document: its last %d of %d bytes become the val split",
        *(document.path, end - cut, document.n_bytes),
    )
    return (
        dataclasses.replace(document, stop=cut, n_bytes=cut - document.start),
        dataclasses.replace(document, start=cut, n_bytes=end - cut),
    )


def _has_bom(path: Path) -> bool:
    """Whether a file starts with UTF-8's byte order mark, which is not part of the text."""
    try:
        with path.open("rb") as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


def walk(folder: Path, skip: Callable[[str], bool]) -> tuple[list[Path], list[Path]]:
    """Regular files below a folder, sorted, and what was left out of them.

    Files and folders whose name is to be skipped are left out, links to folders, which may lead
    round in a circle, and what is not a regular file.
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


def inspect(
    candidates: Iterable[Document], skip_binary: set[Path], searched: Sequence[Path]
) -> list[Document]:
    """Read every document once: measure it, leave out the empty, refuse what is not text."""
    documents: list[Document] = []
    empty: list[str] = []
    binary: list[str] = []
    problems: list[str] = []
    for candidate in candidates:
        document = candidate
        try:
            if document.encoding == "utf-8" and _has_bom(document.path):
                document = dataclasses.replace(document, start=len(codecs.BOM_UTF8))
            n_bytes = sum(len(block.encode()) for block in document.blocks())
        except InputError as error:
            if isinstance(error, BinaryFileError) and document.path in skip_binary:
                binary.append(document.name)
            else:
                problems.append(str(error))
            continue
        if n_bytes:
            documents.append(dataclasses.replace(document, n_bytes=n_bytes))
        else:
            empty.append(document.name)
    if problems:
        raise InputError("\n  ".join(some(problems)))
    log_left_out("binary", binary)
    log_left_out("empty", empty)
    if not documents:
        places = ", ".join(some([str(path) for path in searched]))
        raise InputError(f"no text in {places}; give files, or folders of files, that hold text")
    return documents


def log_left_out(why: str, names: Sequence[str]) -> None:
    if names:
        logger.info("left out as %s: %d (%s)", why, len(names), ", ".join(some(names)))


def some(texts: Sequence[str]) -> list[str]:
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return [*texts[:_SHOWN], *more]
