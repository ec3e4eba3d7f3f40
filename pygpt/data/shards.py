"""Writes the shards of a split, such that a killed process can go on.

A shard is ``NAME.partial`` until it is full. `ShardWriter.commit` returns the state that is on the
disk once the `Flusher` has done what it was given; a `ShardWriter` started from that state goes on
behind it, whatever was written later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pygpt.data.manifest import ShardInfo, SplitInfo

_READ_BYTES = 1 << 22
# Ids are hashed and written in pieces of this size: each call waits for the interpreter's lock.
_WRITE_IDS = 1 << 18

# Jobs that may wait for the disk: a full shard, the two shards being filled, and their record.
_JOBS = 4


class Flusher:
    """A thread for what waits for the disk, in order. After an error nothing more is done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._jobs: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def __enter__(self) -> Flusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def submit(self, job: Callable[[], object]) -> None:
        """Have a job done. Waits if too many are not done yet.

        Raises:
            OSError: of an earlier job.
        """
        self._jobs.append(self._pool.submit(self._run, job))
        while len(self._jobs) > _JOBS:
            self._jobs.popleft().result()

    def wait(self) -> None:
        """Return when all is done.

        Raises:
            OSError: of a job.
        """
        while self._jobs:
            self._jobs.popleft().result()

    def _run(self, job: Callable[[], object]) -> None:
        if self._error is not None:
            raise self._error
        try:
            job()
        except BaseException as error:
            self._error = error
            raise


@dataclasses.dataclass(frozen=True)
class SplitState:
    """What is written of a split."""

    documents: int = 0
    bytes: int = 0
    shards: tuple[ShardInfo, ...] = ()
    """The full ones."""
    tokens: int = 0
    """In the shard that is being filled."""
    first: str | None = None
    """See `ShardInfo`, of the shard that is being filled."""
    last: str | None = None


class ShardWriter:
    """Writes one split.

    Args:
        directory: where.
        split: the split's name.
        dtype: of the ids.
        shard_tokens: tokens of a full shard; None writes one shard, ``SPLIT.bin``.
        state: where to go on.
        flusher: waits for the disk.

    Raises:
        OSError: the disk refuses it.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        dtype: np.dtype[np.unsignedinteger],
        shard_tokens: int | None,
        state: SplitState,
        flusher: Flusher,
    ) -> None:
        self._flusher = flusher
        self._waiting: list[npt.NDArray[np.unsignedinteger]] = []
        self._n_waiting = 0
        self._directory, self._split, self._dtype = directory, split, dtype
        self._shard_tokens = shard_tokens
        self._documents, self._bytes = state.documents, state.bytes
        self._shards = list(state.shards)
        self._first, self._last, self._tokens = state.first, state.last, state.tokens
        self._digest = hashlib.sha256()
        self._restore()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def tokens(self) -> int:
        """Written so far, over all shards."""
        return sum(shard.tokens for shard in self._shards) + self._tokens

    @property
    def n_full(self) -> int:
        """Full shards."""
        return len(self._shards)

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return self._documents

    def write(
        self,
        ids: npt.NDArray[np.unsignedinteger],
        n_bytes: int,
        ends_document: bool,
        origin: str | None,
    ) -> None:
        """Append the ids of a piece, (n,), which may fill shards."""
        self._bytes += n_bytes
        self._documents += ends_document
        while self._shard_tokens and self._tokens + len(ids) >= self._shard_tokens:
            room = self._shard_tokens - self._tokens
            self._append(ids[:room], origin)
            ids = ids[room:]
            self._close_shard()
        if len(ids):
            self._append(ids, origin)

    def commit(self) -> SplitState:
        """Have flushed to the disk what was written, and say what that is."""
        self._write_waiting()
        file = self._file
        self._flusher.submit(lambda: os.fsync(file.fileno()))
        return SplitState(
            self._documents,
            self._bytes,
            tuple(self._shards),
            self._tokens,
            self._first,
            self._last,
        )

    def finish(self) -> SplitInfo:
        """Close the last shard, which may be shorter than the others."""
        if self._tokens:
            self._close_shard()
        self._flusher.wait()
        self._file.close()
        self._partial.unlink(missing_ok=True)
        return SplitInfo(self._documents, self._bytes, tuple(self._shards))

    def _restore(self) -> None:
        """Open the shard that is being filled, cut back to its recorded length."""
        # A shard that was closed after the last commit.
        if self._final.exists():
            self._final.replace(self._partial)
        self._partial.touch()
        self._file = self._partial.open("r+b")
        size = self._tokens * self._dtype.itemsize
        left = size
        while left:
            data = self._file.read(min(left, _READ_BYTES))
            if not data:
                raise OSError(5, "shorter than recorded", str(self._partial))
            self._digest.update(data)
            left -= len(data)
        self._file.truncate(size)
        for path in self._directory.glob(f"{self._split}-*.bin*"):
            if path.name.split(".")[0] > self._final.stem:
                path.unlink()

    @property
    def _final(self) -> Path:
        number = "" if self._shard_tokens is None else f"-{len(self._shards):05}"
        return self._directory / f"{self._split}{number}.bin"

    @property
    def _partial(self) -> Path:
        return self._final.with_suffix(".bin.partial")

    def _append(self, ids: npt.NDArray[np.unsignedinteger], origin: str | None) -> None:
        self._waiting.append(ids)
        self._n_waiting += len(ids)
        self._tokens += len(ids)
        self._first = self._first or origin
        self._last = origin
        if self._n_waiting >= _WRITE_IDS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if self._waiting:
            data = np.concatenate(self._waiting).data.cast("B")
            self._file.write(data)
            self._digest.update(data)
        self._waiting, self._n_waiting = [], 0
        self._file.flush()

    def _close_shard(self) -> None:
        self._write_waiting()
        file, partial, final = self._file, self._partial, self._final
        self._flusher.submit(lambda: _complete(file, partial, final))
        digest = self._digest.hexdigest()
        self._shards.append(ShardInfo(final.name, self._tokens, digest, self._first, self._last))
        self._digest, self._tokens = hashlib.sha256(), 0
        self._first = self._last = None
        if self._shard_tokens:
            self._file = self._partial.open("w+b")


def _complete(file: BinaryIO, partial: Path, final: Path) -> None:
    os.fsync(file.fileno())
    file.close()
    partial.replace(final)
