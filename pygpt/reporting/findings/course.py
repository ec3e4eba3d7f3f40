"""How the run went: schedule, data, batch, restarts and the log itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pygpt.reporting.findings.finding import Finding, Subject, Verdict
from pygpt.reporting.language import msg
from pygpt.reporting.runlog import Floats, RunLog
from pygpt.reporting.schedule import configured
from pygpt.utils import cli

EPOCHS = 4
CHINCHILLA = 20
RATE_TOLERANCE = 0.05
LOST = 0.02


def findings(subject: Subject) -> Iterator[Finding]:
    """One finding for each question, where the log can answer it."""
    log = subject.log
    for finding in (
        _schedule(subject),
        _epochs(log),
        _tokens_per_parameter(subject),
        _restarts(log),
        _records(log),
    ):
        if finding:
            yield finding


def _schedule(subject: Subject) -> Finding | None:
    """The learning rate as configured against as run, and whether it decays."""
    log, schedule = subject.log, subject.schedule
    if not log.train.has("lr") or schedule is None:
        return None
    step, lr = log.train.known("lr")
    evidence = msg(
        "Peak {peak:.2e} at step {warmup}, {last:.2e} at step {step}.",
        peak=float(lr.max()),
        warmup=int(step[int(np.argmax(lr))]),
        last=float(lr[-1]),
        step=int(step[-1]),
    )
    source = "Hägele et al. 2024, arXiv 2405.18392: what a decay gives"
    plan = configured(log.facts, int(step[-1]))
    if plan is not None and log.train.records_per_row == 1:
        # Trainers count a step before or after it: either is right.
        at = step.astype(np.int64)
        near = [plan[np.clip(at - back, 0, len(plan) - 1)] for back in (0, 1)]
        # Warm-ups differ by a step between trainers.
        after = at > (log.facts.warmup_steps or 0) + 1
        off = min(float(np.abs(lr - each)[after].max(initial=0) / each.max()) for each in near)
        if off > RATE_TOLERANCE and not _flat(lr):
            text = msg(
                "The learning rate is up to {off:.0%} of its peak from the configured one.", off=off
            )
            threshold = msg("{limit:.0%}.", limit=RATE_TOLERANCE)
            return Finding("schedule", "problem", text, evidence, threshold, source)
    threshold = msg("A rate at the end of more than half of its peak.")
    if log.finished is not False and lr[-1] > 0.5 * lr.max():
        verdict: Verdict = "problem" if log.finished else "note"
        text = msg("The learning rate has not decayed: the loss that a decay gives is missing.")
        command = "python -m pygpt.train --resume --min-lr LOW --lr-decay-steps N"
        return Finding("schedule", verdict, text, evidence, threshold, source, command)
    if _flat(lr) and plan is not None and plan.min() < 0.5 * plan.max():
        text = msg("The configuration has a decay, and the learning rate stays at its peak.")
        return Finding("schedule", "problem", text, evidence, threshold, source)
    text = msg("The learning rate follows its schedule.")
    return Finding("schedule", "good", text, evidence, threshold, source)


def _flat(lr: Floats) -> bool:
    return bool(lr[-1] >= 0.99 * lr.max())


def _epochs(log: RunLog) -> Finding | None:
    """Passes over the corpus."""
    tokens, corpus = log.tokens, log.facts.corpus_tokens
    if not tokens or not corpus:
        return None
    epochs = tokens / corpus
    evidence = msg("{tokens} tokens of a corpus of {corpus}.", tokens=tokens, corpus=corpus)
    threshold = msg("{limit} epochs.", limit=EPOCHS)
    source = "Muennighoff et al. 2023, arXiv 2305.16264"
    if epochs <= EPOCHS:
        text = msg("{epochs:.2f} epochs: repeated text is as good as new up to about four.",
                   epochs=epochs)  # fmt: skip
        return Finding("epochs", "good", text, evidence, threshold, source)
    text = msg("{epochs:.1f} epochs: beyond four, repeated text teaches less and less.",
               epochs=epochs)  # fmt: skip
    return Finding("epochs", "problem", text, evidence, threshold, source,
                   "python -m pygpt.prepare text MORE --out DIR")  # fmt: skip


def _tokens_per_parameter(subject: Subject) -> Finding | None:
    tokens, parameters = subject.log.tokens, subject.n_params
    if not tokens:
        return Finding(
            "tokens",
            "unknown",
            msg("The log does not say how many tokens a step has."),
            command=cli.command("report", subject.log.path, "--batch-tokens", "N"),
        )
    if not parameters:
        return None
    ratio = tokens / parameters
    below = msg("A larger part of the same compute would go into more tokens.")
    above = msg("The model is trained beyond that, as small models for use are.")
    return Finding(
        "tokens",
        "note",
        msg(
            "{tokens:.2f} B tokens, {ratio:.1f} a parameter. {meaning}",
            tokens=tokens / 1e9,
            ratio=ratio,
            meaning=below if ratio < CHINCHILLA else above,
        ),
        threshold=msg("About {n} are best for a given compute.", n=CHINCHILLA),
        source="Hoffmann et al. 2022, arXiv 2203.15556",
    )


def _restarts(log: RunLog) -> Finding | None:
    if not log.restarts:
        return None
    lost = sum(restart.at - restart.to + 1 for restart in log.restarts)
    first = log.restarts[0]
    share = lost / max(log.last_step, 1)
    text = msg(
        "Resumed {n} times; {lost} steps were done twice, {share:.1%} of the run.",
        n=len(log.restarts),
        lost=lost,
        share=share,
    )
    return Finding(
        "restarts",
        "problem" if share > LOST else "note",
        text,
        msg("First from step {at} back to {to}.", at=first.at, to=first.to),
        msg("{limit:.0%} of the steps.", limit=LOST),
        "",
        "python -m pygpt.train --resume --checkpoint-interval SHORTER",
    )


def _records(log: RunLog) -> Finding | None:
    """Records that were left out."""
    if not log.skipped and not log.duplicates:
        return None
    records = len(log.train) * log.train.records_per_row + len(log.val)
    many = log.skipped + log.duplicates > max(2, 0.01 * records)
    return Finding(
        "records",
        "problem" if many else "note",
        msg(
            "Of the log's records {skipped} could not be read and {twice} were of a step that "
            "came again at once; the later counts.",
            skipped=log.skipped,
            twice=log.duplicates,
        ),
        threshold=msg("1 % of the records."),
    )
