"""Writes the shards of a split, such that a killed process can go on.

A shard is ``NAME.partial`` until it is full. `ShardWriter.commit` flushes all that was written, so
that the state it returns is on the disk; `ShardWriter` started from that state goes on behind it,
whatever was written later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pygpt.data.manifest import ShardInfo, SplitInfo

_READ_BYTES = 1 << 22
# Ids are hashed and written in pieces of this size: each call waits for the interpreter's lock.
_WRITE_IDS = 1 << 18


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
    ) -> None:
        self._directory, self._split, self._dtype = directory, split, dtype
        self._shard_tokens = shard_tokens
        self._documents, self._bytes = state.documents, state.bytes
        self._shards = list(state.shards)
        self._first, self._last, self._tokens = state.first, state.last, state.tokens
        self._digest = hashlib.sha256()
        self._pending: list[npt.NDArray[np.unsignedinteger]] = []
        self._n_pending = 0
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
        """Flush to the disk what was written, and say what that is."""
        self._write_pending()
        self._file.flush()
        os.fsync(self._file.fileno())
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
        self._pending.append(ids)
        self._n_pending += len(ids)
        if self._n_pending >= _WRITE_IDS:
            self._write_pending()
        self._tokens += len(ids)
        self._first = self._first or origin
        self._last = origin

    def _write_pending(self) -> None:
        if not self._pending:
            return
        data = np.concatenate(self._pending).data.cast("B")
        self._file.write(data)
        self._digest.update(data)
        self._pending, self._n_pending = [], 0

    def _close_shard(self) -> None:
        self._write_pending()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = self._final.name
        self._partial.replace(self._final)
        digest = self._digest.hexdigest()
        self._shards.append(ShardInfo(name, self._tokens, digest, self._first, self._last))
        self._digest, self._tokens = hashlib.sha256(), 0
        self._first = self._last = None
        if self._shard_tokens:
            self._file = self._partial.open("w+b")
