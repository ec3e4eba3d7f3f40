"""Writes the shards of a split, such that a killed process can go on.

A shard is ``NAME.partial`` until it is full. `ShardWriter.commit` returns the state that is on the
disk once `Disk` has done what it was given; a `ShardWriter` started from that state goes on
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
# Ids are hashed and written in pieces of about this size.
_WRITE_IDS = 1 << 18

# Jobs that may wait: some megabytes of ids; a full shard, the two being filled, and their record.
_WRITES, _FLUSHES = 16, 4


class _Jobs:
    """A thread that does jobs in order. After an error nothing more is done."""

    def __init__(self, n_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._jobs: deque[Future[None]] = deque()
        self._n_waiting = n_waiting
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> None:
        self._jobs.append(self._pool.submit(self._run, job))
        while len(self._jobs) > self._n_waiting:
            self._jobs.popleft().result()

    def wait(self) -> None:
        while self._jobs:
            self._jobs.popleft().result()

    def shutdown(self) -> None:
        self._pool.shutdown()

    def _run(self, job: Callable[[], object]) -> None:
        if self._error is not None:
            raise self._error
        try:
            job()
        except BaseException as error:
            self._error = error
            raise


class Disk:
    """A thread that writes and a thread that flushes: the one that computes waits for neither."""

    def __init__(self) -> None:
        self._writing, self._flushing = _Jobs(_WRITES), _Jobs(_FLUSHES)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.shutdown()
        self._flushing.shutdown()

    def write(self, job: Callable[[], object]) -> None:
        """Have a job done behind those before. Waits if too many are not done yet.

        Raises:
            OSError: of an earlier job.
        """
        self._writing.submit(job)

    def flush(self, job: Callable[[], object]) -> None:
        """Have a job done that waits for the disk, behind all writes and flushes before.

        Raises:
            OSError: of an earlier job.
        """
        self._writing.submit(lambda: self._flushing.submit(job))

    def wait_written(self) -> None:
        """Return when all writes are done.

        Raises:
            OSError: of a job.
        """
        self._writing.wait()

    def wait(self) -> None:
        """Return when all is done.

        Raises:
            OSError: of a job.
        """
        self._writing.wait()
        self._flushing.wait()


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
        disk: writes and flushes.

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
        disk: Disk,
    ) -> None:
        self._disk = disk
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
        n_documents: int,
        origin: Callable[[int], str] | None = None,
    ) -> None:
        """Append ids, (n,), which may fill shards.

        Args:
            ids: not to be changed afterwards.
            n_bytes: UTF-8 bytes of their text.
            n_documents: that end in them.
            origin: index in `ids` → what `ShardInfo` records for it.
        """
        self._bytes += n_bytes
        self._documents += n_documents
        start = 0
        while start < len(ids):
            stop = len(ids)
            if self._shard_tokens is not None:
                stop = min(stop, start + self._shard_tokens - self._tokens)
            self._append(ids[start:stop])
            if origin is not None and self._shard_tokens is not None:
                self._first = self._first or origin(start)
                self._last = origin(stop - 1)
            if self._tokens == self._shard_tokens:
                self._close_shard()
            start = stop

    def commit(self) -> SplitState:
        """Have flushed to the disk what was written, and say what that is."""
        self._write_waiting()
        file = self._file
        self._disk.flush(lambda: os.fsync(file.fileno()))
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
        self._disk.wait()
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

    def _append(self, ids: npt.NDArray[np.unsignedinteger]) -> None:
        self._waiting.append(ids)
        self._n_waiting += len(ids)
        self._tokens += len(ids)
        if self._n_waiting >= _WRITE_IDS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting, file, digest = self._waiting, self._file, self._digest

        def write() -> None:
            for ids in waiting:
                data = ids.data.cast("B")
                file.write(data)
                digest.update(data)
            file.flush()

        self._disk.write(write)
        self._waiting, self._n_waiting = [], 0

    def _close_shard(self) -> None:
        self._write_waiting()
        file, partial, final = self._file, self._partial, self._final
        self._disk.flush(lambda: _complete(file, partial, final))
        self._disk.wait_written()
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
