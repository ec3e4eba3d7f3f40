"""The other runs beside a run, for a comparison at equal tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from pygpt.reporting.readers import read_log
from pygpt.reporting.runlog import Floats, RunLog
from pygpt.runs.run import Run, runs_below
from pygpt.utils.errors import InputError

MOST = 10
"""Other runs that are read, the newest ones."""


@dataclasses.dataclass(frozen=True)
class OtherRun:
    """Another run on the same data with the same vocabulary, where both have come."""

    path: Path
    name: str
    tokens: float
    """The smaller of both runs' tokens."""
    there: float
    """The other's validation loss, nats per token."""
    here: float
    """This run's."""


def other_runs(log: RunLog) -> tuple[OtherRun, ...]:
    """What can be compared with `log`; nothing for a log that is not in a run's directory."""
    if not Run(log.path).started:
        return ()
    here = log.path.resolve()
    runs = [run for run in runs_below(here.parent) if run.path != here]
    found = []
    for run in runs[-MOST:]:
        try:
            other = _compare(log, read_log(run.path))
        except InputError:  # it has not begun, or is damaged: its own report says so
            continue
        found += [other] if other else []
    return tuple(sorted(found, key=lambda other: other.there))


def _compare(log: RunLog, other: RunLog) -> OtherRun | None:
    same = all(
        getattr(log.facts, name) == getattr(other.facts, name) is not None
        for name in ("corpus", "vocab_size")
    )
    ours, theirs = _by_tokens(log), _by_tokens(other)
    if not same or ours is None or theirs is None:
        return None
    tokens = min(ours[0][-1], theirs[0][-1])
    if tokens < max(ours[0][0], theirs[0][0]):
        return None
    here, there = (float(np.interp(tokens, *curve)) for curve in (ours, theirs))
    return OtherRun(other.path, other.name, float(tokens), there, here)


def _by_tokens(log: RunLog) -> tuple[Floats, Floats] | None:
    """Tokens and validation losses after the first step."""
    if not log.tokens or not log.last_step or not len(log.val):
        return None
    step, loss = log.val.known("loss")
    trained = step > 0
    if not trained.any():
        return None
    return step[trained] * (log.tokens / log.last_step), loss[trained]
