"""Parts of a corpus to encoded documents, in order, by several threads.

One thread reads and `workers` threads encode and hash batches of about BATCH_BYTES, while the
calling thread writes. All of these release the GIL for most of their time. What comes out is in the
order of the corpus, whatever the number of workers. A few batches per worker are in memory at a
time.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pygpt.data.corpora.parts import Part, Unreadable
from pygpt.tokenizers.base import Tokenizer

BATCH_BYTES, BATCH_PIECES = 1 << 20, 1024

# Batches in flight per worker: enough to keep all busy while one of them is slow.
_AHEAD = 4


class Position(NamedTuple):
    """A place in a corpus: so many pieces of a part were consumed."""

    part: int = 0
    pieces: int = 0


class Piece(NamedTuple):
    """A document, a piece of one, or a record that can't be used."""

    after: Position
    text: str
    ends_document: bool = True
    is_record: bool = False
    """Its split is drawn from its text."""
    problem: str | None = None


class Encoded(NamedTuple):
    """A piece as it is written."""

    after: Position
    ids: npt.NDArray[np.unsignedinteger]
    """(n,); end-of-text is the last, if the piece ends its document."""
    n_bytes: int
    """UTF-8 bytes of the text."""
    ends_document: bool
    digest: bytes
    """16-byte keyed hash of the text of a record, if it was asked for; else empty."""
    problem: str | None


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
) -> Generator[list[Encoded], None, None]:
    """Batches of encoded pieces, from `start` on; close the generator to stop early.

    `needs_digest` is asked for each batch, from any thread.
    """
    in_flight: deque[Future[list[Encoded]]] = deque()
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
        for piece in pieces:
            if piece.after > start:
                yield piece


def _of_records(part: Part, index: int) -> Iterator[Piece]:
    for count, record in enumerate(part.read(), 1):
        after = Position(index, count)
        if isinstance(record, Unreadable):
            yield Piece(after, "", is_record=True, problem=record.reason)
        else:
            yield Piece(after, record, is_record=True)


def _of_one_document(part: Part, index: int) -> Iterator[Piece]:
    pieces = part.read()
    text, count = next(pieces, ""), 1
    for following in pieces:
        yield Piece(Position(index, count), str(text), ends_document=False)
        text, count = following, count + 1
    yield Piece(Position(index, count), str(text))


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
) -> list[Encoded]:
    checked = [_in_utf8(piece) for piece in batch]
    rows = tokenizer.encode_batch([piece.text for piece, _ in checked])
    n_ids = [len(row) + piece.ends_document for row, (piece, _) in zip(rows, checked, strict=True)]
    ids = np.full(sum(n_ids), tokenizer.info.end_of_text, dtype_of(tokenizer))
    key, hashed = str(seed).encode(), needs_digest()
    encoded = []
    start = 0
    for row, n, (piece, data) in zip(rows, n_ids, checked, strict=True):
        ids[start : start + len(row)] = row
        digest = _digest(data, key) if hashed and piece.is_record else b""
        written = ids[start : start + n]
        encoded.append(
            Encoded(piece.after, written, len(data), piece.ends_document, digest, piece.problem)
        )
        start += n
    return encoded


def _digest(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=16).digest()


def _in_utf8(piece: Piece) -> tuple[Piece, bytes]:
    """A piece and its bytes. Half a surrogate pair, which JSON can spell, has no UTF-8."""
    try:
        return piece, piece.text.encode()
    except UnicodeEncodeError:
        problem = "half a surrogate pair, which has no UTF-8"
        return piece._replace(text="", problem=problem), b""
