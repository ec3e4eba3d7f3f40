"""What a finding is, and what findings are made from."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pygpt.config import GPTConfig
from pygpt.reporting.language import Message
from pygpt.reporting.other_runs import OtherRun
from pygpt.reporting.projection import Outlook
from pygpt.reporting.runlog import RunLog
from pygpt.reporting.schedule import Schedule
from pygpt.reporting.writing import Writing

Verdict = Literal["good", "note", "problem", "unknown"]
VERDICTS: tuple[Verdict, ...] = ("problem", "note", "good", "unknown")
"""In the order of the report."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement about a run, with what it rests on."""

    id: str
    """Stable; what a program looks for."""
    verdict: Verdict
    text: Message
    evidence: Message | None = None
    """The figures it was read from."""
    threshold: Message | None = None
    """Where the verdict would change."""
    source: str = ""
    """Where the threshold or the method comes from."""
    command: str | None = None
    """What to type, where a command acts on it."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run, and what follows from its log at once."""

    log: RunLog
    model: GPTConfig | None
    """None where the shape is not known in full."""
    schedule: Schedule | None
    outlook: Outlook
    """Projections and their backtest."""
    writing: Writing | None = None
    """None where no completions were asked for."""
    others: tuple[OtherRun, ...] = ()
    """Further runs beside it."""

    @property
    def n_params(self) -> int | None:
        """Parameters without position embeddings, by the shape or by the log."""
        return self.model.n_params(positions=False) if self.model else self.log.facts.n_params
