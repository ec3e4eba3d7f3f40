"""Parts of a corpus to encoded documents, in order, by several threads.

One thread reads and `workers` threads encode and hash batches of about BATCH_BYTES. All of these
release the GIL for most of their time; what is done for each document is done in C++ or Rust, since
a thread that takes the GIL back thousands of times a second waits longer than it works. What comes
out is in the order of the corpus, whatever the number of workers. A few batches per worker are in
memory at a time.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pygpt import _C
from pygpt.data.corpora.parts import Part, Unreadable
from pygpt.tokenizers.base import Tokenizer

# A batch costs about a millisecond of Python, whatever its size: 4 MB are a third faster than 1 MB.
BATCH_BYTES, BATCH_PIECES = 1 << 22, 4096
DIGEST_BYTES = 16

# Batches in flight per worker: enough to keep all busy while one of them is slow.
_AHEAD = 2


class Position(NamedTuple):
    """A place in a corpus: so many pieces of a part were consumed."""

    part: int = 0
    pieces: int = 0


class Piece(NamedTuple):
    """A document, a piece of one, or a record that can't be used."""

    after: Position
    text: str | bytes
    ends_document: bool = True
    problem: str | None = None


class Encoded(NamedTuple):
    """Pieces of the corpus, n of them, side by side."""

    after: list[Position]
    """Where each ends."""
    ids: npt.NDArray[np.unsignedinteger]
    """Of all pieces; end-of-text is the last of a piece that ends its document."""
    stops: npt.NDArray[np.int64]
    """(n,) the index behind the ids of each piece."""
    n_bytes: npt.NDArray[np.int64]
    """(n,) UTF-8 bytes of each text."""
    ends_document: npt.NDArray[np.bool_]
    """(n,)"""
    digests: bytes
    """DIGEST_BYTES of each piece, a hash of its text keyed by the seed; empty if not asked for."""
    problems: dict[int, str]
    """Index of a piece that can't be used → why."""


def dtype_of(tokenizer: Tokenizer) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds the vocabulary: little-endian uint16, else uint32."""
    return np.dtype("<u2" if tokenizer.info.n_vocab <= 1 << 16 else "<u4")


def encode(
    parts: Sequence[Part],
    tokenizer: Tokenizer,
    seed: int,
    workers: int,
    start: Position,
    needs_digest: Callable[[], bool],
) -> Generator[Encoded, None, None]:
    """Encoded pieces, some at a time, from `start` on; close the generator to stop early.

    `needs_digest` is asked for each batch, from any thread.
    """
    in_flight: deque[Future[Encoded]] = deque()
    batches = _batches(_pieces(parts, start))
    reader, pool = ThreadPoolExecutor(1), ThreadPoolExecutor(workers)
    try:
        reading = reader.submit(next, batches, None)
        while (batch := reading.result()) is not None:
            reading = reader.submit(next, batches, None)
            encode_batch = functools.partial(_encode_batch, batch, tokenizer, seed, needs_digest)
            in_flight.append(pool.submit(encode_batch))
            if len(in_flight) == _AHEAD * workers:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)


def _pieces(parts: Sequence[Part], start: Position) -> Iterator[Piece]:
    for index in range(start.part, len(parts)):
        part = parts[index]
        pieces = _of_one_document(part, index) if part.split else _of_records(part, index)
        skipped = start.pieces if index == start.part else 0
        yield from itertools.islice(pieces, skipped, None)


def _of_records(part: Part, index: int) -> Iterator[Piece]:
    for count, record in enumerate(part.read(), 1):
        after = Position(index, count)
        if isinstance(record, Unreadable):
            yield Piece(after, b"", problem=record.reason)
        else:
            yield Piece(after, record)


def _of_one_document(part: Part, index: int) -> Iterator[Piece]:
    pieces = part.read()
    text, count = next(pieces, ""), 1
    for following in pieces:
        yield Piece(Position(index, count), _usable(text), ends_document=False)
        text, count = following, count + 1
    yield Piece(Position(index, count), _usable(text))


def _usable(text: str | bytes | Unreadable) -> str | bytes:
    assert not isinstance(text, Unreadable)  # a document with a name was checked before
    return text


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_BYTES or len(batch) == BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_batch(
    batch: list[Piece], tokenizer: Tokenizer, seed: int, needs_digest: Callable[[], bool]
) -> Encoded:
    problems = {i: piece.problem for i, piece in enumerate(batch) if piece.problem is not None}
    texts: list[bytes] = []
    for i, piece in enumerate(batch):
        try:
            texts.append(piece.text if isinstance(piece.text, bytes) else piece.text.encode())
        except UnicodeEncodeError:
            problems[i] = "half a surrogate pair, which has no UTF-8"  # JSON can spell it
            texts.append(b"")
    rows = tokenizer.encode_batch(texts)
    ends_document = np.array([piece.ends_document for piece in batch])
    key = str(seed).encode()
    return Encoded(
        [piece.after for piece in batch],
        _C.join_rows(
            rows.ids,
            rows.offsets,
            ends_document,
            tokenizer.info.end_of_text,
            dtype_of(tokenizer).name,
        ),
        rows.offsets[1:] + np.cumsum(ends_document),
        np.array([len(text) for text in texts]),
        ends_document,
        _C.keyed_hashes(texts, key) if needs_digest() else b"",
        problems,
    )
