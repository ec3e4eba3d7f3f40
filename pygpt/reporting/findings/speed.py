"""How fast: throughput, stalls, the clock, and the share of the GPU's peak."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pygpt.planning.cards import Card, find_card
from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.language import msg
from pygpt.reporting.runlog import Floats, RunLog
from pygpt.utils import cli

A100_FLOPS = 312e12
"""What nanoGPT divides by, whatever the GPU."""
STALL = 3.0
PREEMPTED = 0.1
"""Seconds that a system may take a core away for: no stall of the run's own."""
STALLED = 0.05
CLOCK = 1000.0
LOW_MFU = 0.2


def findings(subject: Subject) -> Iterator[Finding]:
    """One finding for each question, where the log can answer it."""
    log = subject.log
    seconds = step_seconds(log)
    if len(seconds) >= 20:
        yield from _clock_and_stalls(log, seconds)
    yield from _mfu(subject)


def step_seconds(log: RunLog) -> Floats:
    """Seconds of each recorded step; empty where the log does not say."""
    if log.train.has("seconds"):
        return log.train.known("seconds")[1]
    if log.train.has("tokens_per_second") and log.facts.batch_tokens:
        return log.facts.batch_tokens / log.train.known("tokens_per_second")[1]
    return np.array([])


def tokens_per_second(log: RunLog) -> float | None:
    """The median rate."""
    if log.train.has("tokens_per_second"):
        return float(np.median(log.train.known("tokens_per_second")[1]))
    seconds = step_seconds(log)
    if not len(seconds) or not log.facts.batch_tokens:
        return None
    return log.facts.batch_tokens / float(np.median(seconds))


def _clock_and_stalls(log: RunLog, seconds: Floats) -> Iterator[Finding]:
    usual = float(np.median(seconds))
    wrong = (seconds <= 0) | (seconds > max(CLOCK * usual, 600))
    if wrong.any():
        yield Finding(
            "clock",
            "problem",
            msg("The clock jumped: {n} steps have a time that can't be theirs.",
                n=int(wrong.sum())),
            msg("The median step takes {usual:.3f} s; the oddest {odd:.1f} s.",
                usual=usual, odd=float(seconds[np.argmax(np.abs(seconds))])),
            msg("Below 0, or more than {times:.0f} times the median.", times=CLOCK),
        )  # fmt: skip
    right = seconds[~wrong][5:]
    slow = right > max(STALL * usual, usual + PREEMPTED)
    # What an evaluation adds to the step beside it is no stall.
    evaluations = len(log.val)
    lost = np.sort(right[slow] - usual)[: max(0, int(slow.sum()) - evaluations)]
    share = float(lost.sum() / right.sum())
    evidence = msg(
        "{n} of {all} steps took more than {times:.0f} times the median of {usual:.3f} s.",
        n=int(slow.sum()),
        all=len(right),
        times=STALL,
        usual=usual,
    )
    threshold = msg("{limit:.0%} of the time.", limit=STALLED)
    # One slow moment of a short run, such as another program's start, is no stalled loader.
    if share > STALLED and len(lost) >= max(5, 0.01 * len(right)):
        text = msg("{share:.0%} of the time was lost in slow steps: the data loader, the disk or "
                   "another program stalls it.", share=share)  # fmt: skip
        yield Finding("stalls", "problem", text, evidence, threshold)
    else:
        yield Finding("stalls", "good", msg("The pace is steady."), evidence, threshold)
    added = np.sort(right[slow] - usual)[max(0, int(slow.sum()) - evaluations) :]
    if evaluations and len(added):
        dead = float(added.sum() / right.sum())
        yield Finding(
            "evaluation_time",
            "problem" if dead > 0.25 else "note",
            msg("Evaluating and saving took {share:.0%} of the time.", share=dead),
            threshold=msg("{limit:.0%} of the time.", limit=0.25),
            command="python -m pygpt.train … --eval-interval LARGER --eval-tokens FEWER",
        )


def _mfu(subject: Subject) -> Iterator[Finding]:
    log, model = subject.log, subject.model
    card = card_of(log)
    rate = tokens_per_second(log)
    logged = log.train.known("mfu")[1]
    nanogpt = log.format.startswith("nanoGPT")
    if nanogpt and len(logged):
        mfu = float(np.median(logged))
        values = {"mfu": mfu, "rate": mfu * A100_FLOPS / 1e12}
        if card is None:
            yield Finding(
                "nanogpt_mfu",
                "note",
                msg("nanoGPT's MFU of {mfu:.1%} is {rate:.1f} TFLOP/s: it divides by an A100's 312 "
                    "whatever the GPU.", **values),
                source="nanoGPT model.py, estimate_mfu",
                command=cli.command("report", log.path, "--card", "RTX 4070"),
            )  # fmt: skip
        else:
            share = mfu * A100_FLOPS / card.flops
            yield Finding(
                "nanogpt_mfu",
                "note",
                msg("nanoGPT's MFU of {mfu:.1%} is {rate:.1f} TFLOP/s, for it divides by an A100's "
                    "312: {share:.0%} of this {card}'s {peak:.1f}.",
                    card=card.name, share=share, peak=card.tflops, **values),
                source="nanoGPT model.py, estimate_mfu; data sheet",
            )  # fmt: skip
    if rate is None:
        return
    if model is None or card is None:
        text = msg("{rate:,.0f} tokens/s; the share of the GPU's peak needs its name and the "
                   "model's shape.", rate=rate)  # fmt: skip
        yield Finding("mfu", "unknown" if card is None and model is None else "note", text)
        return
    mfu = rate * model.flops_per_token() / card.flops
    yield Finding(
        "mfu",
        "good" if mfu >= LOW_MFU else "problem",
        msg("{rate:,.0f} tokens/s: {mfu:.0%} of the {card}'s {peak:.1f} TFLOP/s (MFU).",
            rate=rate, mfu=mfu, card=card.name, peak=card.tflops),
        threshold=msg("{limit:.0%} of the peak.", limit=LOW_MFU),
        source="Chowdhery et al. 2022, appendix B; data sheet",
        command=cli.command("train", "--dry-run", "--card", card.name),
    )  # fmt: skip


def card_of(log: RunLog) -> Card | None:
    """The data sheet of the run's GPU; None where it is unknown or has none."""
    return find_card(log.facts.card) if log.facts.card else None
