"""The first look at a shard: its checksum and its largest id, found once and remembered.

Every id of a dataset is checked against the vocabulary before it is used, because an id beyond the
embedding table ends in a wrong row or a device-side assertion far from its cause. Reading gigabytes
for that at every start would be wasteful, so what was found is kept in a cache directory
(``$XDG_CACHE_HOME/pygpt/scans``, by default ``~/.cache/pygpt/scans``): one small file for each
shard, which counts for as long as the shard's size and modification time are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pygpt.utils.files import cache_directory, replace_text
from pygpt.utils.json_file import build, parse
from pygpt.utils.progress import ProgressBar

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20
# A scan was measured at 0.75 GB/s: below this it is over before a progress bar can be read.
_BAR_FROM_BYTES = 1 << 30


class Shard(Protocol):
    """What a scan needs to know of a file; ``pygpt._C.TokenFile`` says it."""

    @property
    def path(self) -> str: ...
    @property
    def dtype(self) -> str:
        """Of the ids: "uint16" or "uint32"."""

    @property
    def data_offset(self) -> int:
        """Bytes in front of the first id."""


@dataclasses.dataclass(frozen=True)
class ShardScan:
    """What a scan finds. Equal `path` to `mtime_ns` mean that it still holds."""

    path: str
    dtype: str
    size: int
    mtime_ns: int
    sha256: str
    """Of the whole file, header included: what ``sha256sum`` prints."""
    largest_id: int


def unscanned_bytes(files: Sequence[Shard]) -> int:
    """Bytes that `scan_shards` would read."""
    return sum(os.path.getsize(file.path) for file in files if _remembered(file) is None)


def scan_shards(files: Sequence[Shard]) -> list[ShardScan]:
    """Scan every file that has no remembered scan, with a progress bar on stderr if it takes long.

    Raises:
        OSError: a file can't be read.
    """
    scans = [_remembered(file) for file in files]
    missing = [at for at, scan in enumerate(scans) if scan is None]
    n_bytes = sum(os.path.getsize(files[at].path) for at in missing)
    if n_bytes < _BAR_FROM_BYTES:
        bar: contextlib.AbstractContextManager[ProgressBar | None] = contextlib.nullcontext()
    else:
        bar = ProgressBar("checking shards", n_bytes, unit="bytes")
    with bar as progress:
        for at in missing:
            scans[at] = scan = _scan(files[at], progress)
            _remember(scan)
    return [scan for scan in scans if scan is not None]


def first_id_from(file: Shard, limit: int) -> tuple[int, int] | None:
    """The first id of a shard that is `limit` or more.

    Returns:
        Its offset in ids and the id, or None when every id is smaller.
    """
    start = 0
    for _, ids in _chunks(file):
        above = np.flatnonzero(ids >= limit)
        if above.size:
            return start + int(above[0]), int(ids[above[0]])
        start += ids.size
    return None


def _chunks(file: Shard) -> Iterator[tuple[bytes, NDArray[np.unsignedinteger]]]:
    """The file from its first byte on, as (bytes, the ids in them); a header holds no ids."""
    dtype = np.dtype(file.dtype).newbyteorder("<")
    # Read, not mapped: the pages of a mapping are fetched one at a time (see csrc/token_file.cpp).
    with open(file.path, "rb", buffering=0) as raw:
        header = raw.read(file.data_offset)
        yield header, np.empty(0, dtype)
        rest = b""
        while chunk := raw.read(_CHUNK_BYTES):
            # A read may stop inside an id.
            whole = rest + chunk
            n_ids = len(whole) // dtype.itemsize
            rest = whole[n_ids * dtype.itemsize :]
            yield chunk, np.frombuffer(whole, dtype, n_ids)


def _scan(file: Shard, progress: ProgressBar | None) -> ShardScan:
    status = os.stat(file.path)
    digest = hashlib.sha256()
    largest_id = 0
    for chunk, ids in _chunks(file):
        digest.update(chunk)
        if ids.size:
            largest_id = max(largest_id, int(ids.max()))
        if progress:
            progress.advance(len(chunk))
    return ShardScan(
        path=os.path.realpath(file.path),
        dtype=file.dtype,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=digest.hexdigest(),
        largest_id=largest_id,
    )


def _cache_path(real_path: str) -> Path:
    # One file for each shard, so that processes that scan at the same time can't lose each other's.
    name = f"{hashlib.sha256(os.fsencode(real_path)).hexdigest()[:32]}.json"
    return cache_directory() / "scans" / name


def _remembered(file: Shard) -> ShardScan | None:
    real_path = os.path.realpath(file.path)
    try:
        fields = parse(_cache_path(real_path).read_text(encoding="utf-8"))
        scan = build(ShardScan, fields)
    except (OSError, ValueError, TypeError):
        return None  # never scanned, or a file of another version: it is scanned again
    status = os.stat(real_path)
    found = (real_path, file.dtype, status.st_size, status.st_mtime_ns)
    return scan if found == (scan.path, scan.dtype, scan.size, scan.mtime_ns) else None


def _remember(scan: ShardScan) -> None:
    path = _cache_path(scan.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(dataclasses.asdict(scan)))
    except OSError as error:
        logger.warning(
            "%s was checked, which can't be remembered (%s); the next start checks it again",
            scan.path,
            error,
        )
