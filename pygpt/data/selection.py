"""Which documents are written, and to which split."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pygpt.data.corpora.parts import Part
from pygpt.data.encoding import DIGEST_BYTES, Encoded
from pygpt.data.prepare_progress import Hashes

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
DROPPED = -1
_TRAIN, _VAL = range(len(SPLITS))


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


class Choice(NamedTuple):
    """What becomes of the first n pieces of an `Encoded`; the others are not wanted."""

    split: npt.NDArray[np.int64]
    """(n,) index in SPLITS, or DROPPED."""
    refused: str | None
    """Why the piece behind them can't be used, if that is to stop the preparation."""
    is_last: bool
    """Whether they reach `Limits.max_tokens`."""


class Selection:
    """Chooses piece by piece; a pure function of the corpus, the options and the seed.

    Args:
        parts: of the corpus.
        limits: what to write.
        val_fraction: share of records for val.
        hashes: of the texts so far, for `Limits.dedup`.
        tokens: split → written so far.
        dropped: reason → records so far; counted on here.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        limits: Limits,
        val_fraction: float,
        hashes: Hashes,
        tokens: Mapping[str, int],
        dropped: Counter[str],
    ) -> None:
        self._parts, self._limits, self._hashes = parts, limits, hashes
        self._val_fraction, self._dropped = val_fraction, dropped
        self._tokens = np.array([tokens[name] for name in SPLITS])

    def needs_digest(self) -> bool:
        """Whether anything is decided by a record's text; once False, it stays so."""
        return self._limits.dedup or not self._val_is_full()

    def choose(self, pieces: Encoded) -> Choice:
        """Choose among the next pieces of the corpus."""
        n, refused, is_last = len(pieces.after), None, False
        if pieces.problems and not self._limits.skip_bad:
            n = min(pieces.problems)
            refused = pieces.problems[n]
        n_ids = np.diff(pieces.stops, prepend=0)[:n]
        fixed = [self._parts[after.part].split for after in pieces.after[:n]]
        if None in fixed:  # records: so are all parts of the corpus
            reasons = self._reasons_to_drop(pieces, n)
            split = self._draw(pieces, n_ids, np.isin(np.arange(n), [*reasons], invert=True))
        else:
            reasons = {}
            split = np.array([_VAL if name == "val" else _TRAIN for name in fixed], np.int64)
        if self._limits.max_tokens is not None:
            total = self._tokens.sum() + np.cumsum(n_ids * (split != DROPPED))
            reached = np.flatnonzero((total >= self._limits.max_tokens) & pieces.ends_document[:n])
            if reached.size:
                n, refused, is_last = int(reached[0]) + 1, None, True
                split = split[:n]
        self._tokens += [int(n_ids[:n][split == index].sum()) for index in range(len(SPLITS))]
        for i in sorted(reasons):
            if i < n:
                self._dropped[reasons[i]] += 1
                if i in pieces.problems:
                    logger.warning("left out: %s", pieces.problems[i])
        return Choice(split, refused, is_last)

    def _reasons_to_drop(self, pieces: Encoded, n: int) -> dict[int, str]:
        limits, n_bytes = self._limits, pieces.n_bytes[:n]
        reasons = dict.fromkeys(np.flatnonzero(n_bytes == 0).tolist(), "empty")
        if limits.min_bytes is not None:
            short = np.flatnonzero((n_bytes > 0) & (n_bytes < limits.min_bytes))
            reasons |= dict.fromkeys(short.tolist(), "shorter than --min-bytes")
        if limits.max_bytes is not None:
            long = np.flatnonzero(n_bytes > limits.max_bytes)
            reasons |= dict.fromkeys(long.tolist(), "longer than --max-bytes")
        reasons |= {i: "unreadable" for i in pieces.problems if i < n}
        if limits.dedup:
            for i in range(n):
                digest = pieces.digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]
                if i not in reasons and not self._hashes.add(digest):
                    reasons[i] = "duplicate"
        return reasons

    def _draw(
        self, pieces: Encoded, n_ids: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        """The split of each record, by its text and by what came before it."""
        is_val = np.zeros(len(kept), bool)
        if pieces.digests and not self._val_is_full():
            first_bytes = np.frombuffer(pieces.digests, "<u8").reshape(-1, DIGEST_BYTES // 8)
            drawn = first_bytes[: len(kept), 0].astype(np.float64) / 2**64
            is_val = kept & (drawn < self._val_fraction)
            if not self._tokens[_VAL] and kept.any():
                is_val[np.argmax(kept)] = True  # the first record: the split is never empty
            if self._limits.val_tokens is not None:
                ids_of_val = n_ids * is_val
                before = self._tokens[_VAL] + np.cumsum(ids_of_val) - ids_of_val
                is_val &= before < self._limits.val_tokens
        return np.where(kept, np.where(is_val, _VAL, _TRAIN), DROPPED)

    def _val_is_full(self) -> bool:
        limit = self._limits.val_tokens
        return limit is not None and int(self._tokens[_VAL]) >= limit
