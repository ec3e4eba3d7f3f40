"""The loss mask of a split of dialogues, mapped: a byte for each id, 1 where it is a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygpt.data.manifest import ShardInfo
from pygpt.data.verify import ShardScan, scan_shards
from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class _MaskShard:
    """A file of the mask, as `pygpt.data.verify` reads it."""

    path: str
    dtype: str = "uint8"
    data_offset: int = 0


def open_mask(
    directory: Path, shards: Sequence[ShardInfo]
) -> tuple[NDArray[np.uint8], list[ShardScan]]:
    """The mask of a split, (n_tokens,), and a scan of each of its files.

    One file is mapped; several, which `merge` makes, are read into memory.

    Raises:
        InputError: a file can't be read, is empty, or holds something else than 0 and 1.
    """
    files = [_MaskShard(str(directory / shard.file)) for shard in shards]
    try:
        scans = scan_shards(files)
        parts = [np.memmap(file.path, np.uint8, "r") for file in files]
    except (OSError, ValueError) as error:
        raise InputError(
            f"the loss mask of {directory} can't be read ({error}); prepare it again"
        ) from error
    for scan in scans:
        if scan.largest_id > 1:
            raise InputError(
                f"{scan.path} is a loss mask and holds {scan.largest_id}, which is neither 0 nor "
                "1; prepare it again"
            )
    return parts[0] if len(parts) == 1 else np.concatenate(parts), scans
