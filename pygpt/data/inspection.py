"""Looks at a dataset directory: checks its shards, summarises them, prints documents."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tyro.conf import Positional

from pygpt.data.loss_mask import open_mask
from pygpt.data.manifest import FILE_NAME, DatasetInfo, ShardInfo, SplitInfo
from pygpt.tokenizers.base import Tokenizer, load_tokenizer
from pygpt.utils import cli
from pygpt.utils.errors import InputError

_CHUNK_IDS = 1 << 21
_SAMPLE_CHARACTERS = 200

Ids = npt.NDArray[np.unsignedinteger]


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check every shard against dataset.json, and summarise the documents of each split."""

    directory: Positional[Path]
    """The dataset directory."""

    def run(self) -> str:
        """The summary.

        Raises:
            InputError: a shard is missing, or is not what dataset.json says.
        """
        info = DatasetInfo.read(self.directory)
        tokenizer = load_tokenizer(info.tokenizer)
        lines = [f"{self.directory}: {info.source}, tokenizer {info.tokenizer.name}, {info.dtype}"]
        for name, split in info.splits.items():
            lines += ["", *_verify_split(self.directory, name, split, info, tokenizer)]
        dropped = (info.details or {}).get("dropped") or {}
        lines += [f"dropped, {reason}: {count:,}" for reason, count in dropped.items()]
        return "\n".join([*lines, "", "all shards are as dataset.json says"])


@dataclasses.dataclass(frozen=True)
class Show:
    """Print one document of a split as text."""

    directory: Positional[Path]
    """The dataset directory."""

    document: int = 0
    """Its number, from 0."""

    split: str = "train"
    """The split."""

    def run(self) -> str:
        """The text.

        Raises:
            InputError: no such split or document.
        """
        info = DatasetInfo.read(self.directory)
        split = info.splits.get(self.split)
        if split is None:
            raise InputError(
                f"{self.directory} has no split {self.split!r}; it has {', '.join(info.splits)}"
            )
        if not 0 <= self.document < split.documents:
            raise InputError(
                f"--document {self.document} is not in 0 to {split.documents - 1}, the documents "
                f"of {self.split}"
            )
        tokenizer = load_tokenizer(info.tokenizer)
        documents = _documents(self.directory, split, info)
        for number, ids in enumerate(documents):
            if number == self.document:
                return tokenizer.decode(ids.tolist())
        raise InputError(f"{self.directory} has fewer documents than {FILE_NAME} says; verify it")


def report(info: DatasetInfo, out: Path, seconds: float) -> str:
    """What was prepared, split by split, what was dropped, and what to do next."""
    lines = [
        f"prepared {info.source} in {seconds:.1f} s",
        "",
        f"{'split':<6}{'documents':>11}{'bytes':>16}{'tokens':>16}{'bytes/token':>13}",
    ]
    for name, split in info.splits.items():
        text_tokens = max(split.tokens - split.documents, 1)  # end-of-text stands for no bytes
        lines.append(
            f"{name:<6}{split.documents:>11,}{split.bytes:>16,}{split.tokens:>16,}"
            f"{split.bytes / text_tokens:>13.3f}"
        )
    details = info.details or {}
    dropped = details.get("dropped") or {}
    lines += [f"dropped, {reason}: {count:,}" for reason, count in dropped.items()]
    lines += _dialogues(info, details)
    tune = ("--preset", "chat", "--init-from", "gpt2") if info.tokenizer.chat else ()
    return "\n".join([*lines, "", f"next: {cli.command('train', *tune, '--data', out)}"])


def _dialogues(info: DatasetInfo, details: dict[str, Any]) -> list[str]:
    """Of dialogues: what share the assistant wrote, and how many a context would cut."""
    targets, longer = details.get("targets"), details.get("longer_than")
    if not targets or not longer:
        return []
    share = sum(targets.values()) / sum(split.tokens for split in info.splits.values())
    counts = ", ".join(f"{int(length):,} tokens: {n:,}" for length, n in longer.items())
    return [
        f"targets, written by the assistant: {share:.1%}",
        f"dialogues longer than {counts}; a row of that length keeps their beginning",
    ]


def read_ids(path: Path, dtype: str) -> Iterator[Ids]:
    """A shard without a header, in chunks.

    Raises:
        InputError: it can't be read.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_IDS * kind.itemsize):
                yield np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


def _documents(directory: Path, split: SplitInfo, info: DatasetInfo) -> Iterator[Ids]:
    """The ids of each document, without end-of-text; documents go over the ends of shards."""
    rest: list[Ids] = []
    for shard in split.shards:
        for ids in read_ids(directory / shard.file, info.dtype):
            start = 0
            for end in np.flatnonzero(ids == info.tokenizer.end_of_text).tolist():
                yield np.concatenate([*rest, ids[start:end]])
                rest, start = [], end + 1
            rest.append(ids[start:])


def _verify_split(
    directory: Path, name: str, split: SplitInfo, info: DatasetInfo, tokenizer: Tokenizer
) -> list[str]:
    for shard in split.shards:
        _verify_shard(directory / shard.file, shard, info)
    token_bytes = tokenizer.token_bytes()
    lengths: list[int] = []
    samples: list[str] = []
    n_bytes = 0
    wanted = {0, split.documents // 2, split.documents - 1}
    for number, ids in enumerate(_documents(directory, split, info)):
        lengths.append(len(ids))
        n_bytes += int(token_bytes[ids].sum())
        if number in wanted:
            text = tokenizer.decode(ids[:_SAMPLE_CHARACTERS].tolist())[:_SAMPLE_CHARACTERS]
            samples.append(f"  document {number}: {text!r}")
    masked = _verify_mask(directory, name, split, info)
    found = (len(lengths), n_bytes)
    if found != (split.documents, split.bytes):
        raise InputError(
            f"{directory}: {name} holds {found[0]} documents of {found[1]} bytes, and {FILE_NAME} "
            f"says {split.documents} of {split.bytes}; prepare it again"
        )
    return [
        f"{name}: {split.documents:,} documents, {split.tokens:,} tokens, {split.bytes:,} bytes, "
        f"{n_bytes / max(split.tokens - split.documents, 1):.3f} bytes/token, "
        f"{len(split.shards)} shards",
        *masked,
        *_histogram(np.array(lengths)),
        *samples,
    ]


def _verify_shard(path: Path, shard: ShardInfo, info: DatasetInfo) -> None:
    digest, n_ids = hashlib.sha256(), 0
    for ids in read_ids(path, info.dtype):
        digest.update(ids.tobytes())
        n_ids += len(ids)
        if ids.size and int(ids.max()) >= info.tokenizer.n_vocab:
            raise InputError(f"{path} has id {ids.max()}, beyond its tokenizer; prepare it again")
    if n_ids != shard.tokens or digest.hexdigest() != shard.sha256:
        raise InputError(
            f"{path} is not what {FILE_NAME} says ({n_ids} tokens of {shard.tokens}, SHA-256 "
            f"{digest.hexdigest()[:12]}… and not {shard.sha256[:12]}…); prepare it again"
        )


def _verify_mask(directory: Path, name: str, split: SplitInfo, info: DatasetInfo) -> list[str]:
    """Check the loss mask of a split of dialogues, against dataset.json and against the ids."""
    if split.loss_mask is None:
        return []
    mask, scans = open_mask(directory, split.loss_mask)
    for scan, shard in zip(scans, split.loss_mask, strict=True):
        if scan.sha256 != shard.sha256:
            raise InputError(f"{scan.path} is not what {FILE_NAME} says; prepare it again")
    if len(mask) != split.tokens:
        raise InputError(
            f"{directory}: the loss mask of {name} has {len(mask)} entries for {split.tokens} ids; "
            "prepare it again"
        )
    at = 0
    for number, ids in enumerate(_documents(directory, split, info)):
        if not mask[at : at + len(ids)].any():
            raise InputError(
                f"{directory}: dialogue {number} of {name} has no target; prepare it again"
            )
        at += len(ids) + 1  # and end-of-text
    n_targets = int(mask.sum(dtype=np.int64))
    return [f"  {n_targets:,} targets ({n_targets / len(mask):.1%}), written by the assistant"]


def _histogram(lengths: npt.NDArray[np.int64]) -> list[str]:
    """How many documents have 2ᵏ to 2ᵏ⁺¹ tokens."""
    if not lengths.size:
        return []
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(int)
    counts = np.bincount(powers)
    return [
        f"  {2**k:>9,} tokens or more {count:>12,}  {'#' * round(40 * count / counts.max())}"
        for k, count in enumerate(counts.tolist())
        if count
    ]
