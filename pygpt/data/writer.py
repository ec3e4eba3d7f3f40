"""Turns a corpus into a dataset directory: the ids of each split, and ``dataset.json``.

All is written into ``OUT.partial``, flushed, and renamed: a dataset is there whole or not at all.
With `Limits.shard_tokens`, shards of that many tokens are written, and what was written survives a
stop: the same command goes on where the last `Progress` was recorded, and the bytes are those of a
run that was never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygpt.data import manifest
from pygpt.data.corpora.base import Corpus
from pygpt.data.corpora.parts import Part, Records, parts_of
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.encoding import Encoded, dtype_of, encode
from pygpt.data.manifest import DatasetInfo, SplitInfo
from pygpt.data.prepare_progress import CorpusBar, Hashes, Progress
from pygpt.data.shards import Flusher, ShardWriter
from pygpt.tokenizers.base import Tokenizer, get_tokenizer
from pygpt.utils import signals
from pygpt.utils.errors import InputError, check_seed
from pygpt.utils.files import directory_beside, remove_partial
from pygpt.utils.machine import n_cpus

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is written of a corpus, and in what portions. None: no limit."""

    shard_tokens: int | None = None
    """Tokens of a shard; None writes one shard for each split and keeps nothing after a stop."""
    val_tokens: int | None = None
    """Documents drawn for val go to train once val has so many tokens. Records only."""
    max_tokens: int | None = None
    """Stop after the document that reaches it."""
    min_bytes: int | None = None
    """Drop shorter documents."""
    max_bytes: int | None = None
    """Drop longer documents."""
    dedup: bool = False
    """Drop documents whose text is that of an earlier one."""
    skip_bad: bool = False
    """Count records that can't be used, instead of stopping at the first."""

    @property
    def selects(self) -> bool:
        """Whether documents are dropped one by one."""
        return self.dedup or self.min_bytes is not None or self.max_bytes is not None


def prepare_stdlib(out: Path, tokenizer: str = "gpt2") -> DatasetInfo:
    """Prepare the default corpus with the default split; see `prepare`."""
    return prepare(Stdlib(), out, tokenizer)


def prepare(
    corpus: Corpus | Records,
    out: Path,
    tokenizer: str | Tokenizer = "gpt2",
    *,
    val_fraction: float = 0.05,
    seed: int = 0,
    workers: int | None = None,
    limits: Limits = Limits(),
) -> DatasetInfo:
    """Encode a corpus into a dataset directory.

    The shards hold the documents' ids in the order of the corpus, each document with end-of-text
    behind it: little-endian uint16, or uint32 if the vocabulary needs that. They are ``train.bin``
    and ``val.bin``, or with `limits.shard_tokens` ``train-00000.bin`` and so on. Their bytes do not
    depend on `workers`.

    Args:
        corpus: what to encode.
        out: the directory to make.
        tokenizer: "gpt2", "bytes", or a tokenizer.
        val_fraction: share of documents for the val split, in (0, 1). Documents with names draw by
            name (see `pygpt.data.corpora.base.split`), records by their text.
        seed: decides which documents those are.
        workers: threads that encode; None takes one for each CPU this process may use.
        limits: what is written.

    Returns:
        What ``dataset.json`` holds.

    Raises:
        InputError: `out` exists or can't be written, an argument is out of its range, or the corpus
            can't be used. Without `limits.shard_tokens` nothing is left behind.
        KeyboardInterrupt: Ctrl-C; with `limits.shard_tokens` all that was written is kept.
        SystemExit: SIGTERM or SIGHUP, with `limits.shard_tokens`: likewise.
    """
    workers = n_cpus() if workers is None else workers
    _check_arguments(out, val_fraction, seed, workers, limits)
    encoder = get_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    if limits.selects and not isinstance(corpus, Records):
        raise InputError(
            "--dedup, --min-bytes and --max-bytes choose among records (jsonl, parquet, the Hub); "
            f"{corpus.source} has files, which can be named one by one"
        )
    logger.info("reading %s", corpus.source)
    parts = parts_of(corpus, val_fraction, seed)
    restartable = limits.shard_tokens is not None
    try:
        with directory_beside(out, keep=restartable) as directory:
            run = _Preparation(directory, corpus, parts, encoder, val_fraction, seed, limits)
            info = run(workers)
    except OSError as error:
        kept = "nothing was kept"
        if restartable:
            kept = "what was flushed is kept, so the same command goes on"
        raise InputError(
            f"{out} can't be written ({error.strerror}); {kept}. Fix that, or make room, or take "
            "another --out"
        ) from error
    return info


def _check_arguments(
    out: Path, val_fraction: float, seed: int, workers: int, limits: Limits
) -> None:
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction {val_fraction} is not between 0 and 1, such as 0.05")
    check_seed(seed)
    if workers < 1:
        raise InputError(f"--workers {workers} is not 1 or more; leave it out for all CPUs")
    for name in ("shard_tokens", "val_tokens", "max_tokens", "min_bytes", "max_bytes"):
        value = getattr(limits, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} is not 1 or more")
    if os.path.exists(out / manifest.FILE_NAME):
        raise InputError(
            f"{out} holds a prepared dataset already; take another --out, or delete it first"
        )
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise InputError(f"{out} exists and is not an empty folder; take another --out")


class _Preparation:
    """One call of `prepare`: where it is, and what it counted."""

    def __init__(
        self,
        directory: Path,
        corpus: Corpus | Records,
        parts: Sequence[Part],
        tokenizer: Tokenizer,
        val_fraction: float,
        seed: int,
        limits: Limits,
    ) -> None:
        self._directory, self._corpus, self._parts = directory, corpus, parts
        self._tokenizer, self._seed = tokenizer, seed
        self._val_fraction, self._limits = val_fraction, limits
        remove_partial(directory)
        self._identity = self._describe()
        self._before = Progress.read(directory, self._identity)
        self._finished: DatasetInfo | None = None
        if self._before == Progress(self._identity):
            self._finished = self._read_finished()
            if not self._finished:
                _empty(directory)
        self._position = self._before.position
        self._dropped = Counter(self._before.dropped)

    def __call__(self, workers: int) -> DatasetInfo:
        if self._finished:
            return self._finished
        self._tokenizer.encode_batch([""])  # builds the encoder, or says what is missing
        with contextlib.ExitStack() as stack:
            self._flusher = Flusher()
            self._writers = {
                name: stack.enter_context(
                    ShardWriter(
                        self._directory,
                        name,
                        dtype_of(self._tokenizer),
                        self._limits.shard_tokens,
                        self._before.splits[name],
                        self._flusher,
                    )
                )
                for name in SPLITS
            }
            stack.enter_context(self._flusher)  # left before the files are closed
            self._hashes = stack.enter_context(
                Hashes(self._directory, self._before.n_hashes, enabled=self._limits.dedup)
            )
            self._bar = CorpusBar(self._parts, self._position)
            stack.enter_context(self._bar)
            self._write_all(workers)
            splits = {name: writer.finish() for name, writer in self._writers.items()}
        self._check_splits(splits)
        info = DatasetInfo(
            self._tokenizer.info,
            dtype_of(self._tokenizer).name,
            splits,
            self._corpus.source,
            self._details(),
        )
        info.write(self._directory)  # first: without a record and this, all would start over
        Progress.remove(self._directory)
        return info

    def _write_all(self, workers: int) -> None:
        restartable = self._limits.shard_tokens is not None
        with contextlib.ExitStack() as stack:
            stop = None
            if restartable:
                stop = stack.enter_context(signals.stop_on_signals(logger.warning))
            batches = stack.enter_context(
                contextlib.closing(
                    encode(
                        self._parts,
                        self._tokenizer,
                        self._seed,
                        workers,
                        self._position,
                        self._needs_digest,
                    )
                )
            )
            committed = self._n_full()
            for batch in batches:
                for piece in batch:
                    self._write(piece)
                    if piece.ends_document and self._is_complete():
                        return
                self._bar.show(self._position, self._n_documents(), self._n_tokens())
                if restartable and self._n_full() > committed:
                    committed = self._n_full()
                    self._commit()
                if stop is not None and stop():
                    self._commit()
                    self._flusher.wait()
                    if stop.signal == signal.SIGINT:
                        raise KeyboardInterrupt
                    sys.exit(128 + (stop.signal or signal.SIGTERM))

    def _write(self, piece: Encoded) -> None:
        part = self._parts[piece.after.part]
        origin = None
        if self._limits.shard_tokens is not None:
            origin = f"{part.name}:{piece.after.pieces - 1}"
        reason = None if part.split else self._reason_to_drop(piece)
        if reason is None:
            split = part.split or self._draw(piece)
            self._writers[split].write(piece.ids, piece.n_bytes, piece.ends_document, origin)
        else:
            self._dropped[reason] += 1
        self._position = piece.after

    def _reason_to_drop(self, piece: Encoded) -> str | None:
        """Why a record is not written, None if it is."""
        limits = self._limits
        if piece.problem is not None:
            if not limits.skip_bad:
                self._refuse(piece)
            logger.warning("left out: %s", piece.problem)
            return "unreadable"
        if piece.n_bytes == 0:
            return "empty"
        if limits.min_bytes is not None and piece.n_bytes < limits.min_bytes:
            return "shorter than --min-bytes"
        if limits.max_bytes is not None and piece.n_bytes > limits.max_bytes:
            return "longer than --max-bytes"
        if limits.dedup and not self._hashes.add(piece.digest):
            return "duplicate"
        return None

    def _refuse(self, piece: Encoded) -> None:
        kept = "nothing was kept"
        if self._limits.shard_tokens is not None and self._n_documents():
            self._commit()
            self._flusher.wait()
            kept = f"{self._n_documents():,} documents before it are kept"
        name = self._parts[piece.after.part].name
        raise InputError(
            f"{name}, record {piece.after.pieces - 1}: {piece.problem}; {kept}. Give --skip-bad to "
            "leave such records out and count them"
        )

    def _draw(self, piece: Encoded) -> str:
        """The split of a record: a pure function of its text and of what came before it."""
        val = self._writers["val"]
        if not val.documents:
            return "val"  # the first record: the split is never empty
        if self._val_is_full():
            return "train"
        drawn = int.from_bytes(piece.digest[:8], "little") / 2**64
        return "val" if drawn < self._val_fraction else "train"

    def _val_is_full(self) -> bool:
        limit = self._limits.val_tokens
        return limit is not None and self._writers["val"].tokens >= limit

    def _needs_digest(self) -> bool:
        """Whether anything is decided by a record's text; once False, it stays so."""
        return self._limits.dedup or not self._val_is_full()

    def _is_complete(self) -> bool:
        limit = self._limits.max_tokens
        return limit is not None and self._n_tokens() >= limit

    def _check_splits(self, splits: dict[str, SplitInfo]) -> None:
        empty = [name for name, split in splits.items() if not split.documents]
        if empty:
            dropped = "".join(f", {n} {reason}" for reason, n in self._dropped.items())
            shutil.rmtree(self._directory, ignore_errors=True)
            raise InputError(
                f"{self._corpus.source} has no document for the split {empty[0]} (documents "
                f"written: {self._n_documents()}{dropped}); give a corpus of two documents or more"
            )

    def _commit(self) -> None:
        progress = Progress(
            self._identity,
            self._position,
            {name: writer.commit() for name, writer in self._writers.items()},
            dict(self._dropped),
            self._hashes.commit(),
        )
        self._flusher.submit(lambda: progress.write(self._directory))

    def _n_full(self) -> int:
        return sum(writer.n_full for writer in self._writers.values())

    def _n_tokens(self) -> int:
        return sum(writer.tokens for writer in self._writers.values())

    def _n_documents(self) -> int:
        return sum(writer.documents for writer in self._writers.values())

    def _describe(self) -> dict[str, Any]:
        """What must be equal for a stopped preparation to go on."""
        details = self._corpus.details if isinstance(self._corpus, Records) else {}
        limits = {
            k: v for k, v in dataclasses.asdict(self._limits).items() if v not in (None, False)
        }
        return {
            "source": self._corpus.source,
            "parts": len(self._parts),
            "tokenizer": self._tokenizer.info.hash,
            "val_fraction": self._val_fraction,
            "seed": self._seed,
            **limits,
            **details,
        }

    def _read_finished(self) -> DatasetInfo | None:
        """What a process has written that was killed before it renamed the directory."""
        if not (self._directory / manifest.FILE_NAME).exists():
            return None
        info = DatasetInfo.read(self._directory)
        details = {"source": info.source, "tokenizer": info.tokenizer.hash, **(info.details or {})}
        details.pop("dropped", None)
        return info if details == self._identity else None

    def _details(self) -> dict[str, Any] | None:
        if self._limits == Limits() and not isinstance(self._corpus, Records):
            return None
        identity = {k: v for k, v in self._identity.items() if k not in ("source", "tokenizer")}
        return {**identity, "dropped": dict(self._dropped)}


def _empty(directory: Path) -> None:
    """Delete what a killed run without records of its progress left behind."""
    for path in directory.iterdir():
        path.unlink()
