"""Turns a corpus into a dataset directory: the ids of each split, and ``dataset.json``.

All is written into ``OUT.partial``, flushed, and renamed: a dataset is there whole or not at all.
With `Limits.shard_tokens`, shards of that many tokens are written, and what was written survives a
stop: the same command goes on where the last `Progress` was recorded, and the bytes are those of a
run that was never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pygpt.data import manifest
from pygpt.data.corpora.base import Corpus
from pygpt.data.corpora.parts import Part, Records, parts_of
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.encoding import Encoded, Position, dtype_of, encode
from pygpt.data.manifest import DatasetInfo, SplitInfo
from pygpt.data.prepare_progress import CorpusBar, Hashes, Progress
from pygpt.data.selection import DROPPED, SPLITS, Limits, Selection
from pygpt.data.shards import Disk, ShardWriter
from pygpt.tokenizers.base import Tokenizer, get_tokenizer
from pygpt.utils import signals
from pygpt.utils.errors import InputError, check_seed
from pygpt.utils.files import directory_beside, partial_of, remove_partial
from pygpt.utils.machine import n_cpus

logger = logging.getLogger(__name__)


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
    limits: Limits | None = None,
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
        limits: what is written; None for all of it.

    Returns:
        What ``dataset.json`` holds.

    Raises:
        InputError: `out` exists or can't be written, an argument is out of its range, or the corpus
            can't be used. Without `limits.shard_tokens` nothing is left behind.
        KeyboardInterrupt: Ctrl-C; with `limits.shard_tokens` all that was written is kept.
        SystemExit: SIGTERM or SIGHUP, with `limits.shard_tokens`: likewise.
    """
    workers = n_cpus() if workers is None else workers
    limits = limits or Limits()
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
        kept = _kept(partial_of(out)) if restartable else "nothing was kept"
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
        self._tokenizer.encode_batch([b""])  # builds the encoder, or says what is missing
        with contextlib.ExitStack() as stack:
            self._disk = Disk()
            self._writers = {
                name: stack.enter_context(
                    ShardWriter(
                        self._directory,
                        name,
                        dtype_of(self._tokenizer),
                        self._limits.shard_tokens,
                        self._before.splits[name],
                        self._disk,
                    )
                )
                for name in SPLITS
            }
            stack.enter_context(self._disk)  # left before the files are closed
            self._hashes = stack.enter_context(
                Hashes(self._directory, self._before.n_hashes, enabled=self._limits.dedup)
            )
            self._selection = Selection(
                self._parts,
                self._limits,
                self._val_fraction,
                self._hashes,
                {name: writer.tokens for name, writer in self._writers.items()},
                self._dropped,
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
                        self._selection.needs_digest,
                    )
                )
            )
            committed = self._n_full()
            for pieces in batches:
                choice = self._selection.choose(pieces)
                self._write(pieces, choice.split)
                if choice.is_last:
                    return
                if choice.refused is not None:
                    self._refuse(pieces.after[len(choice.split)], choice.refused)
                self._bar.show(self._position, self._n_documents(), self._n_tokens())
                if restartable and self._n_full() > committed:
                    committed = self._n_full()
                    self._commit()
                if stop is not None and stop():
                    self._commit()
                    self._disk.wait()
                    if stop.signal == signal.SIGINT:
                        raise KeyboardInterrupt
                    sys.exit(128 + (stop.signal or signal.SIGTERM))

    def _write(self, pieces: Encoded, chosen: npt.NDArray[np.int64]) -> None:
        """Write the first pieces, those of one split that are side by side at once."""
        bounds = np.flatnonzero(np.diff(chosen, prepend=DROPPED - 1, append=DROPPED - 1))
        for first, behind in itertools.pairwise(bounds.tolist()):
            if chosen[first] == DROPPED:
                continue
            start = int(pieces.stops[first - 1]) if first else 0
            self._writers[SPLITS[chosen[first]]].write(
                pieces.ids[start : pieces.stops[behind - 1]],
                int(pieces.n_bytes[first:behind].sum()),
                int(pieces.ends_document[first:behind].sum()),
                functools.partial(self._origin, pieces, start),
            )
        if len(chosen):
            self._position = pieces.after[len(chosen) - 1]

    def _origin(self, pieces: Encoded, start: int, index: int) -> str:
        """The piece of the corpus that an id is of."""
        after = pieces.after[int(np.searchsorted(pieces.stops, start + index, side="right"))]
        return f"{self._parts[after.part].name}:{after.pieces - 1}"

    def _refuse(self, after: Position, problem: str) -> None:
        kept = "nothing was kept"
        if self._limits.shard_tokens is not None and self._n_documents():
            self._commit()
            self._disk.wait()
            kept = f"{self._n_documents():,} documents before it are kept"
        raise InputError(
            f"{self._parts[after.part].name}, record {after.pieces - 1}: {problem}; {kept}. Give "
            "--skip-bad to leave such records out and count them"
        )

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
        self._disk.flush(lambda: progress.write(self._directory))

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


def _kept(directory: Path) -> str:
    """What the same command goes on from, for a user whose disk is full or failing."""
    if (directory / manifest.FILE_NAME).exists():
        return "all is written, and the same command ends it"
    try:
        n = Progress.documents_in(directory)
    except (OSError, ValueError, KeyError, TypeError):
        return "what was recorded is kept"
    return f"{n:,} documents are kept, and the same command goes on" if n else "nothing was kept"


def _empty(directory: Path) -> None:
    """Delete what a killed run without records of its progress left behind."""
    for path in directory.iterdir():
        path.unlink()
