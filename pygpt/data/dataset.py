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
from pygpt.data.corpora import CORPUS_NAMES
from pygpt.data.loss_mask import open_mask
from pygpt.data.manifest import FILE_NAME, DatasetInfo, ShardInfo
from pygpt.data.split_names import shards_named
from pygpt.data.verify import ShardScan, first_id_from, scan_shards, unscanned_bytes
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

# A scan was measured at 0.75 GB/s: a second and a half.
SCANNED_BYTES = 1 << 30

# Ids of a shard without a header that are read to tell uint16 from uint32, and how many are enough.
_SAMPLE_IDS, _ENOUGH_IDS = 4096, 64

# GPT-2's text reaches ids of this size within so many tokens: (n_tokens, id). In Shakespeare and in
# Python's standard library the longest run of ids below 256 was 68 tokens, below 32,000 it was
# 1,111. Character vocabularies stay below the first id, LLaMA's 32,000 below the second.
_GPT2_REACHES = ((1_000, 256), (20_000, 32_000))


_OF_NANOGPT = {"shakespeare_char": "shakespeare --tokenizer chars"}


class TokenDataset:
    """One split of a dataset directory, as one long row of token ids.

    The directory holds a ``dataset.json`` (``python -m pygpt.prepare`` writes one), which names the
    shards and the tokenizer. Without one, the shards are nanoGPT's ``train.bin`` and ``val.bin``,
    or else all ``.bin`` or all ``.npy`` files whose name has the split's name as a whole word
    (``fineweb_train_000001.bin``), and the ids are taken as GPT-2's; a warning says so.

    The first opening reads every shard once, for the largest id and the checksum; the result is
    remembered (see `pygpt.data.verify`). More than SCANNED_BYTES with a dataset.json are not read:
    headers and sizes are checked, the checksum is the one recorded, and ids are checked when they
    are used; ``python -m pygpt.prepare verify DIR`` reads all. A shard must not be cut shorter
    while it is open: that ends the process, as with any mapped file.

    Args:
        path: the dataset directory.
        split: "train", "val" or any other split of the dataset.json.
        tokenizer: name of the tokenizer of the ids, "gpt2" or "bytes", for a directory without
            dataset.json. None: GPT-2's, if the ids don't contradict that.

    Attributes:
        path: the dataset directory.
        split: as given.
        tokenizer: whose ids these are.
        n_tokens: ids in the split; also ``len()``.
        checksum: of all ids of the split: SHA-256 over its shards' SHA-256.
        n_bytes: UTF-8 bytes of the text they came from, or None where no dataset.json says so.
        shards: the compiled core's view, for `BatchSampler`.
        scans: checksum and largest id of each shard; empty if they were not read.
        loss_mask: (n_tokens,) 1 for the ids that are targets, of a split of dialogues; else None.

    Raises:
        InputError: no such directory, split or shard; a shard that is empty, cut off, of an
            unsupported type or changed since it was prepared; an id beyond the vocabulary.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        tokenizer: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.split = split
        check_directory(self.path)
        self.n_bytes: int | None = None
        self.loss_mask: NDArray[np.uint8] | None = None
        self.scans: list[ShardScan] = []
        if (self.path / FILE_NAME).exists():
            self._open_described(DatasetInfo.read(self.path), tokenizer)
        else:
            self._open_bare(tokenizer)
        self.n_tokens = self.shards.n_tokens

    def __len__(self) -> int:
        """Ids in the split."""
        return self.n_tokens

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """Ids [start, start + length), over shard borders.

        Raises:
            IndexError: the window is not within [0, n_tokens).
        """
        ids = self.shards.read(start, length)
        self.check_ids(ids)
        return ids

    def check_ids(self, ids: NDArray[np.int64]) -> None:
        """Refuse ids of a split that was not read through at its opening.

        Raises:
            InputError: an id beyond the vocabulary.
        """
        if self.scans or not ids.size or ids.max() < self.tokenizer.n_vocab:
            return
        raise InputError(
            f"{self.path} has id {ids.max()} in {self.split} and tokenizer {self.tokenizer.name!r} "
            f"has ids 0 to {self.tokenizer.n_vocab - 1}; a shard is damaged: `python -m "
            f"pygpt.prepare verify {self.path}` says which; prepare the dataset again"
        )

    def _open_described(self, info: DatasetInfo, tokenizer: str | None) -> None:
        if tokenizer not in (None, info.tokenizer.name):
            raise InputError(
                f"{self.path / FILE_NAME} says that the tokenizer is {info.tokenizer.name!r}, and "
                f"{tokenizer!r} was given; leave it out"
            )
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
        self.shards = _C.TokenShards(paths, info.dtype)
        for file, shard in zip(self.shards.files, split.shards, strict=True):
            _check_agrees(file, shard, info.dtype)
        mask_scans: list[ShardScan] = []
        unread = unscanned_bytes(self.shards.files)
        if unread > SCANNED_BYTES:
            logger.info(
                "%s: %.1f GB of %s are not read through; ids are checked when they are used. "
                "python -m pygpt.prepare verify %s reads all",
                *(self.path, unread / 1e9, self.split, self.path),
            )
        else:
            self.scans = self._scan()
        if split.loss_mask is not None:
            self.loss_mask, mask_scans = open_mask(self.path, split.loss_mask)
            if len(self.loss_mask) != self.shards.n_tokens:
                raise InputError(
                    f"{self.path} has {len(self.loss_mask)} entries in the loss mask of "
                    f"{self.split} and {self.shards.n_tokens} ids; prepare it again"
                )
        masks = split.loss_mask or ()
        self.checksum = _checksum([shard.sha256 for shard in (*split.shards, *masks)])
        described = [*(split.shards if self.scans else ()), *masks]
        for scan, shard in zip([*self.scans, *mask_scans], described, strict=True):
            if scan.sha256 != shard.sha256:
                raise InputError(
                    f"{scan.path} has the SHA-256 {scan.sha256} and {FILE_NAME} says "
                    f"{shard.sha256}: it has changed since it was prepared; prepare it again"
                )

    def _open_bare(self, tokenizer: str | None) -> None:
        paths = _find_shards(self.path, self.split)
        self.tokenizer = _tokenizer_info(tokenizer or "gpt2")
        self.shards = _C.TokenShards(paths, "uint16")
        for file in self.shards.files:
            if file.format == "llm.c" and file.dtype == "uint32":
                raise InputError(
                    f"{file.path} is llm.c's format for LLaMA 3 ids and {self.path} has no "
                    f"{FILE_NAME} that names their tokenizer; prepare the text again with "
                    "`python -m pygpt.prepare text`"
                )
        self._refuse_uint32()
        self.scans = self._scan()
        self.checksum = _checksum([scan.sha256 for scan in self.scans])
        if tokenizer is None:
            self._warn_gpt2([path.name for path in paths])

    def _refuse_uint32(self) -> None:
        """Detect uint32 ids in shards without a header.

        Read as uint16, every second id is the upper half of a uint32, which is 0.
        """
        start = 0
        for file in self.shards.files:
            ids = self.shards.read(start, min(file.n_tokens, _SAMPLE_IDS))
            start += file.n_tokens
            if file.format != "raw" or len(ids) < 2:
                continue
            lower, upper = ((ids[at::2] == 0).mean() for at in (0, 1))
            if upper > 0.5 > lower and (len(ids) >= _ENOUGH_IDS or upper == 1):
                uncertain = "" if len(ids) >= _ENOUGH_IDS else " (too few ids to be certain)"
                raise InputError(
                    f"every second id of {file.path}, read as uint16, is 0: it holds uint32 "
                    f"ids{uncertain}, which a file without a header can't say. For GPT-2's ids "
                    "write it as uint16: "
                    "np.fromfile(path, np.uint32).astype(np.uint16).tofile(path); if they are "
                    "uint16, save them with np.save, which records the type"
                )

    def _warn_gpt2(self, names: Sequence[str]) -> None:
        """Say that the ids are taken as GPT-2's.

        Raises:
            InputError: the largest id is far below what GPT-2's text reaches.
        """
        largest = max(scan.largest_id for scan in self.scans)
        for n_tokens, reached in _GPT2_REACHES:
            if self.shards.n_tokens >= n_tokens and largest < reached:
                raise InputError(
                    f"{self.path} has no {FILE_NAME}, and the largest of the "
                    f"{self.shards.n_tokens:,} ids of its {self.split} split is {largest}: GPT-2's "
                    f"text would reach beyond {reached:,}, so another tokenizer made them. "
                    "Prepare the text again; if they are ids of 'gpt2' or 'bytes', record it: "
                    f"python -m pygpt.prepare shards {self.path} --tokenizer NAME"
                )
        logger.warning(
            "%s has no %s: its %s split (%s) is taken as GPT-2 BPE ids; the largest is %d",
            self.path,
            FILE_NAME,
            self.split,
            ", ".join(names[:3]) + (" …" if len(names) > 3 else ""),
            largest,
        )

    def _scan(self) -> list[ShardScan]:
        scans = scan_shards(self.shards.files)
        n_vocab = self.tokenizer.n_vocab
        for file, scan in zip(self.shards.files, scans, strict=True):
            if scan.largest_id < n_vocab:
                continue
            found = first_id_from(file, n_vocab)
            if found is None:
                raise InputError(f"{file.path} is being written; open it when it is complete")
            offset, token = found
            raise InputError(
                f"{file.path} has id {token} at offset {offset} and tokenizer "
                f"{self.tokenizer.name!r} has ids 0 to {n_vocab - 1}; the shard is damaged, of "
                "another type or of another tokenizer: prepare the dataset again"
            )
        return scans


def _checksum(sha256: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(sha256).encode()).hexdigest()


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
            "because they can run code. Make the same ids again with `python -m pygpt.prepare "
            "shakespeare --file input.txt --tokenizer chars`"
        )
    if (directory / f"{split}.bin").exists():
        return [directory / f"{split}.bin"]
    found = {
        suffix: shards_named(sorted(directory.glob(f"*.{suffix}")), split)
        for suffix in ("bin", "npy")
    }
    if found["bin"] and found["npy"]:
        raise InputError(
            f"{directory} has {found['bin'][0].name} and {found['npy'][0].name}: move one kind of "
            "shard elsewhere"
        )
    shards = found["bin"] or found["npy"]
    if not shards:
        raise InputError(
            f"{directory} has no {FILE_NAME} and no shards of {split!r}: neither {split}.bin nor "
            f"a .bin or .npy file with the word {split!r} in its name, such as "
            f"text_{split}_000.bin; `python -m pygpt.prepare --help` shows how to make a dataset"
        )
    return shards


def check_directory(path: Path) -> None:
    """Refuse a path that is not a directory, before any shard is read.

    Raises:
        InputError: with the command that makes one; newcomers give names of corpora.
    """
    if path.is_dir():
        return
    corpus = _OF_NANOGPT.get(str(path), str(path))
    if corpus.split()[0] in CORPUS_NAMES:
        raise InputError(
            f"{path} is the name of a corpus, not a dataset directory: `python -m pygpt.prepare "
            f"{corpus}` prepares it, and its last line is the command that trains on it"
        )
    raise InputError(
        f"{path} is not a dataset directory; `python -m pygpt.prepare --help` shows how to make one"
    )


def _tokenizer_info(name: str) -> TokenizerInfo:
    from pygpt.tokenizers.base import get_tokenizer

    return get_tokenizer(name).info
