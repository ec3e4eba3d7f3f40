"""`TokenDataset`: one split of a dataset directory, memory-mapped and checked.

The compiled core maps the shards; its source is ``csrc/data/token_file.cpp``.

Example::

    dataset = TokenDataset("data/stdlib", split="train")
    sampler = BatchSampler(dataset, batch_size=12, block_size=1024, seed=1)
    x, y = sampler.batch(0)  # (12, 1024) each; y is x shifted by one token
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygpt import _C
from pygpt.data.manifest import FILE_NAME, DatasetInfo, ShardInfo
from pygpt.data.verify import ShardScan, first_id_from, scan_shards
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

# Ids that show whether a shard without a header is of uint16, and how many are enough to tell.
_SAMPLE_IDS, _FEWEST_IDS = 4096, 64


class TokenDataset:
    """One split of a dataset directory, as one long row of token ids.

    The directory holds a ``dataset.json`` (``python -m pygpt.prepare`` writes one), which names the
    shards and the tokenizer. Without one, the shards are nanoGPT's ``train.bin`` and ``val.bin``,
    or else ``*train*.bin``, or else ``*train*.npy`` by name, and the ids are taken as GPT-2's; a
    warning says so.

    The first opening reads every shard once, for the largest id and the checksum; the result is
    remembered (see `pygpt.data.verify`). A shard must not be cut shorter while it is open: that
    ends the process, as with any mapped file.

    Args:
        path: the dataset directory.
        split: "train", "val" or any other split of the dataset.json.

    Attributes:
        path: the dataset directory.
        split: as given.
        tokenizer: whose ids these are.
        n_tokens: ids in the split; also ``len()``.
        checksum: of all ids of the split: SHA-256 over its shards' SHA-256.
        n_bytes: UTF-8 bytes of the text they came from, or None where no dataset.json says so.
        shards: the compiled core's view, for `BatchSampler`.

    Raises:
        InputError: no such directory, split or shard; a shard that is empty, cut off, of an
            unsupported type or changed since it was prepared; an id beyond the vocabulary.
    """

    def __init__(self, path: str | os.PathLike[str], split: str = "train") -> None:
        self.path = Path(path)
        self.split = split
        if not self.path.is_dir():
            raise InputError(
                f"{self.path} is no dataset directory; `python -m pygpt.prepare --help` shows how "
                "to make one"
            )
        self.n_bytes: int | None = None
        if (self.path / FILE_NAME).exists():
            self._open_described(DatasetInfo.read(self.path))
        else:
            self._open_bare()
        self.n_tokens = self.shards.n_tokens
        self.checksum = _checksum(self._scans)

    def __len__(self) -> int:
        """Ids in the split."""
        return self.n_tokens

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """Ids [start, start + length), over shard borders.

        Raises:
            IndexError: the window is not within [0, n_tokens).
        """
        return self.shards.read(start, length)

    def _open_described(self, info: DatasetInfo) -> None:
        if self.split not in info.splits:
            raise InputError(
                f"{self.path / FILE_NAME} has no split {self.split!r}; it has "
                + ", ".join(info.splits)
            )
        split = info.splits[self.split]
        paths = [self.path / shard.file for shard in split.shards]
        if not paths:
            raise InputError(f"{self.path / FILE_NAME} names no shards for {self.split!r}")
        self.tokenizer: TokenizerInfo = info.tokenizer
        self.n_bytes = split.bytes
        self.shards = _C.TokenShards([str(path) for path in paths], info.dtype)
        for file, shard in zip(self.shards.files, split.shards, strict=True):
            _check_agrees(file, shard, info.dtype)
        self._scans = self._scan()
        for scan, shard in zip(self._scans, split.shards, strict=True):
            if scan.sha256 != shard.sha256:
                raise InputError(
                    f"{scan.path} has the SHA-256 {scan.sha256} and {FILE_NAME} says "
                    f"{shard.sha256}: it has changed since it was prepared; prepare it again"
                )

    def _open_bare(self) -> None:
        paths = _find_shards(self.path, self.split)
        self.tokenizer = _gpt2_info()
        self.shards = _C.TokenShards([str(path) for path in paths], "uint16")
        for file in self.shards.files:
            if file.format == "llm.c" and file.dtype == "uint32":
                raise InputError(
                    f"{file.path} is llm.c's format for LLaMA 3 ids and {self.path} has no "
                    f"{FILE_NAME} that names their tokenizer; prepare the text again with "
                    "`python -m pygpt.prepare text`"
                )
        logger.warning(
            "%s has no %s: its %s split (%s) is taken as GPT-2 BPE ids",
            self.path,
            FILE_NAME,
            self.split,
            ", ".join(path.name for path in paths[:3]) + (" …" if len(paths) > 3 else ""),
        )
        self._refuse_uint32()
        self._scans = self._scan()

    def _refuse_uint32(self) -> None:
        """Tell uint32 ids without a header: read as uint16, every second id is their upper half."""
        file = self.shards.files[0]
        ids = self.shards.read(0, min(file.n_tokens, _SAMPLE_IDS))
        zeros = [(ids[start::2] == 0).mean() for start in (0, 1)]
        if file.format == "raw" and len(ids) >= _FEWEST_IDS and zeros[1] > 0.5 > zeros[0]:
            raise InputError(
                f"every second id of {file.path}, read as uint16, is 0: it holds uint32 ids, which "
                "a file without a header can't say. For GPT-2's ids write it as uint16: "
                "np.fromfile(path, np.uint32).astype(np.uint16).tofile(path)"
            )

    def _scan(self) -> list[ShardScan]:
        scans = scan_shards(self.shards.files)
        n_vocab = self.tokenizer.n_vocab
        for file, scan in zip(self.shards.files, scans, strict=True):
            if scan.largest_id < n_vocab:
                continue
            found = first_id_from(file, n_vocab)
            if found is None:
                raise InputError(f"{file.path} is being written to; open it when it is complete")
            offset, token = found
            raise InputError(
                f"{file.path} has id {token} at offset {offset} and tokenizer "
                f"{self.tokenizer.name!r} has ids 0 to {n_vocab - 1}; the shard is damaged, of "
                "another type or of another tokenizer: prepare the dataset again"
            )
        return scans


def _checksum(scans: Sequence[ShardScan]) -> str:
    return hashlib.sha256(" ".join(scan.sha256 for scan in scans).encode()).hexdigest()


def _check_agrees(file: _C.TokenFile, shard: ShardInfo, dtype: str) -> None:
    """Compare a shard with what its dataset.json says about it."""
    if file.dtype != dtype:
        raise InputError(
            f"{file.path} holds {file.dtype} ids and {FILE_NAME} says {dtype}; prepare it again"
        )
    if file.n_tokens != shard.tokens:
        raise InputError(
            f"{file.path} holds {file.n_tokens} tokens and {FILE_NAME} says {shard.tokens}: it is "
            "cut off or of another dataset; prepare it again"
        )


def _find_shards(directory: Path, split: str) -> list[Path]:
    """The shards of a directory that has no dataset.json."""
    if (directory / "meta.pkl").exists():
        raise InputError(
            f"{directory} has a meta.pkl, nanoGPT's character vocabulary; pickles are not loaded, "
            "for they can run code. Prepare the text again with `python -m pygpt.prepare text … "
            "--tokenizer bytes`"
        )
    if (directory / f"{split}.bin").exists():
        return [directory / f"{split}.bin"]
    found = {suffix: sorted(directory.glob(f"*{split}*.{suffix}")) for suffix in ("bin", "npy")}
    if found["bin"] and found["npy"]:
        raise InputError(
            f"{directory} has {found['bin'][0].name} and {found['npy'][0].name}: move one kind of "
            "shard elsewhere"
        )
    shards = found["bin"] or found["npy"]
    if not shards:
        raise InputError(
            f"{directory} has no {FILE_NAME} and no shards of {split!r}: neither {split}.bin nor "
            f"*{split}*.bin nor *{split}*.npy; `python -m pygpt.prepare --help` shows how to make "
            "a dataset"
        )
    return shards


def _gpt2_info() -> TokenizerInfo:
    from pygpt.tokenizers.base import get_tokenizer

    return get_tokenizer("gpt2").info
