"""Findings about a run: one module a question."""

from __future__ import annotations

from pygpt.reporting.findings import (
    course,
    distance,
    hardware,
    health,
    model,
    next_steps,
    speed,
    writing,
)
from pygpt.reporting.findings.finding import VERDICTS, Finding, Subject
from pygpt.reporting.language import Message, msg

SECTIONS = (
    (msg("What this model is"), model),
    (msg("Is it healthy?"), health),
    (msg("How the run went"), course),
    (msg("How fast"), speed),
    (msg("What the GPU allows"), hardware),
    (msg("How far from GPT-2"), distance),
    (msg("What it writes"), writing),
    (msg("What next"), next_steps),
)


def sections(subject: Subject) -> list[tuple[Message, list[Finding]]]:
    """Findings by section, the worst verdict first; empty sections are left out."""
    found = [(title, list(module.findings(subject))) for title, module in SECTIONS]
    return [
        (title, sorted(of, key=lambda finding: VERDICTS.index(finding.verdict)))
        for title, of in found
        if of
    ]
