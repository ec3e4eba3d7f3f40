"""What next: longer, wider, a better recipe, ranked by what each would gain for an hour."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.findings.speed import tokens_per_second
from pygpt.reporting.language import Message, msg

MUON_TOKENS = 2.95 / 1.70
"""Tokens that tuned AdamW needs for one of tuned Muon's (modded-nanogpt, track 3)."""


@dataclasses.dataclass(frozen=True)
class _Step:
    id: str
    text: Message
    gain: float
    hours: float | None
    source: str
    command: str


def findings(subject: Subject) -> Iterator[Finding]:
    """The steps, the best first."""
    steps = list(_steps(subject))
    known = all(step.hours for step in steps)
    steps.sort(key=lambda step: step.gain / (step.hours or 1), reverse=True)
    for rank, step in enumerate(steps, 1):
        evidence = msg("About {gain:.2f} nats.", gain=step.gain)
        if known and step.hours:
            each = step.gain / step.hours
            evidence = msg("About {gain:.2f} nats in {hours:.1f} h: {each:.4f} an hour.",
                           gain=step.gain, hours=step.hours, each=each)  # fmt: skip
        yield Finding(
            step.id,
            "note",
            msg("{rank}. {step}", rank=rank, step=step.text),
            evidence,
            None,
            step.source,
            step.command,
        )


def _steps(subject: Subject) -> Iterator[_Step]:
    log, model = subject.log, subject.model
    rate, batch = tokens_per_second(log), log.facts.batch_tokens
    hours = log.last_step * batch / rate / 3600 if rate and batch else None
    if subject.outlook.projections:
        longer = subject.outlook.projections[0]
        yield _Step(
            "longer",
            msg("Train to step {steps}: {loss:.3f} is likely ({low:.3f} to {high:.3f}).",
                steps=longer.steps, loss=longer.loss, low=longer.low, high=longer.high),
            max(0.0, log.final_loss - longer.loss),
            hours * longer.steps / log.last_step if hours else None,
            "this run's own curve",
            f"python -m pygpt.train … --max-steps {longer.steps}",
        )  # fmt: skip
    law = subject.outlook.law
    if law and law.method == "power law":
        gain = law.at(log.last_step) - law.at(log.last_step * MUON_TOKENS)
        yield _Step(
            "recipe",
            msg("Muon instead of AdamW at the same length: like {times:.2f} times the tokens, for "
                "planning only.", times=MUON_TOKENS),
            max(0.0, gain),
            hours,
            "modded-nanogpt, track 3",
            "python -m pygpt.train … --optimizer muon",
        )  # fmt: skip
    tokens = log.tokens
    if model and tokens and log.facts.vocab_size and log.facts.vocab_size > 50000:
        wider = dataclasses.replace(model, n_embd=2 * model.n_embd)
        gain = chinchilla(model.n_params(), tokens) - chinchilla(wider.n_params(), tokens)
        flops = wider.flops_per_token() / model.flops_per_token()
        yield _Step(
            "wider",
            msg("Twice the width ({millions:.0f} M parameters) at the same tokens, for planning "
                "only.", millions=wider.n_params() / 1e6),
            gain,
            hours * flops if hours else None,
            "Besiroglu et al. 2024, arXiv 2404.10102",
            f"python -m pygpt.train … --n-embd {wider.n_embd}",
        )  # fmt: skip


def chinchilla(parameters: float, tokens: float) -> float:
    """Loss by the corrected fit of Chinchilla's data (arXiv 2404.10102): differences only."""
    return float(1.8172 + 482.01 * parameters**-0.3478 + 2085.43 * tokens**-0.3658)
