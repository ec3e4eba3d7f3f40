"""What a corpus looks like to the writer: parts that are read from their start.

A corpus whose documents are files with names (`Corpus`) is split by name. A corpus of records
(`Records`: JSON lines, parquet, the Hub) is split by a hash of each document's text, so that the
whole of it never has to be listed.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pygpt.data.corpora.base import Corpus, split
from pygpt.tokenizers.chars import CharTokenizer


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A record that can't be used."""

    reason: str
    """File, row and what is wrong, for the user."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A file, or a row group of one. Reading it again gives the same again."""

    name: str
    n_bytes: int
    """Size, for the progress bar."""
    read: Callable[[], Iterator[str | bytes | Unreadable]]
    """Texts, one document each; for a part with a `split`, the pieces of one document. Bytes are
    valid UTF-8."""
    split: str | None = None
    """"train" or "val" for a part that is one document; None: drawn for each document."""


class Records(abc.ABC):
    """A corpus whose documents are records of files."""

    @property
    @abc.abstractmethod
    def source(self) -> str:
        """Where the text comes from, for readers of ``dataset.json``."""

    @property
    def details(self) -> dict[str, Any]:
        """What ``dataset.json`` records besides, such as the revision."""
        return {}

    @abc.abstractmethod
    def parts(self) -> Sequence[Part]:
        """All parts, in a fixed order.

        Raises:
            InputError: there is none, or a file can't be read.
        """


def characters_of(corpus: Corpus | Records) -> CharTokenizer:
    """The tokenizer of a corpus's characters; reads all of it."""
    characters: set[str] = set()
    for part in parts_of(corpus, 0.5, 0):
        for piece in part.read():
            if not isinstance(piece, Unreadable):
                characters.update(piece.decode() if isinstance(piece, bytes) else piece)
    characters -= {chr(code) for code in range(0xD800, 0xE000)}  # halves of pairs are refused later
    return CharTokenizer("".join(characters))


def parts_of(corpus: Corpus | Records, val_fraction: float, seed: int) -> Sequence[Part]:
    """The parts of any corpus, those of named documents with their split."""
    if isinstance(corpus, Records):
        return corpus.parts()
    return [
        Part(document.name, document.n_bytes, document.blocks, name)
        for name, document in split(corpus.documents(), val_fraction, seed)
    ]
