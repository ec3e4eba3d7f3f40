"""How far from GPT-2, and where published runs were at equal tokens."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

import numpy as np

from pygpt.reporting.findings.comparison import compared
from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.language import msg
from pygpt.reporting.published import GPT2_SIZES, curves
from pygpt.runs.run import Run
from pygpt.utils import cli

GPT2_VOCABULARY = range(50257, 50305)
HELLASWAG = 0.294


def findings(subject: Subject) -> Iterator[Finding]:
    """GPT-2's loss beside this run's, then known curves, then benchmarks."""
    log = subject.log
    yield from compared(log)
    yield _gpt2(subject)
    tokens = log.tokens
    if tokens and log.facts.vocab_size in GPT2_VOCABULARY:
        for curve in curves():
            if curve.tokens[0] <= tokens <= curve.tokens[-1] * 1.05:
                there = float(np.interp(tokens, curve.tokens, curve.loss))
                yield Finding(
                    "equal_tokens",
                    "note",
                    msg("At its {billions:.2f} B tokens, {curve} stood at {there:.3f} on "
                        "{corpus}: {gap:+.2f} nats from there to here.",
                        billions=tokens / 1e9, curve=curve.name, there=there,
                        corpus=curve.corpus, gap=log.final_loss - there),
                    source=f"{curve.source} ({curve.licence})",
                )  # fmt: skip
    for other in subject.others:
        yield Finding(
            "equal_tokens",
            "note",
            msg("At {millions:,.1f} M tokens, {run} stood at {there:.3f} and this run at "
                "{here:.3f}: {gap:+.3f} nats from there to here.",
                millions=other.tokens / 1e6, run=other.name, there=other.there, here=other.here,
                gap=other.here - other.there),
            command=cli.command("report", log.path, other.path),
        )  # fmt: skip
    if "HellaSwag" in log.scores:
        score = log.scores["HellaSwag"]
        yield Finding(
            "hellaswag",
            "note",
            msg("HellaSwag {score:.1%}; GPT-2 small {theirs:.1%}.", score=score, theirs=HELLASWAG),
            source="llm.c, dev/data/hellaswag.py",
        )


def _gpt2(subject: Subject) -> Finding:
    log, small = subject.log, GPT2_SIZES[0]
    is_run = Run(log.path).started
    command = None
    if is_run:  # the next report reads what it writes
        target = shlex.quote(str(log.path / "comparison.json"))
        command = f"{cli.command('eval', log.path, '--compare', 'gpt2', '--json')} > {target}"
    if log.facts.vocab_size not in GPT2_VOCABULARY:
        if log.facts.vocab_size is None:
            command = cli.command("report", log.path, "--vocab-size", 50304)
        return Finding(
            "gpt2",
            "unknown",
            msg("Loss per token can be compared with GPT-2's for GPT-2's tokenizer only; bits per "
                "byte can always."),
            command=command,
        )  # fmt: skip
    loss = log.final_loss
    values = {
        "loss": loss,
        "perplexity": math.exp(loss),
        "gap": loss - small.openwebtext_loss,
        "theirs": small.openwebtext_loss,
        "ratio": math.exp(loss - small.openwebtext_loss),
    }
    corpus = (log.facts.corpus or "").lower()
    if "openwebtext" in corpus or "owt" in corpus:
        text = msg("Loss {loss:.3f}, perplexity {perplexity:.1f}; GPT-2 small has {theirs} on "
                   "OpenWebText (published, zero-shot): {gap:+.2f} nats, {ratio:.2f} times its "
                   "perplexity.", **values)  # fmt: skip
    else:
        text = msg("Loss {loss:.3f}, perplexity {perplexity:.1f}; GPT-2 small has {theirs} on "
                   "OpenWebText (published, zero-shot), {gap:+.2f} nats away. On another text, "
                   "tenths of a nat say nothing.", **values)  # fmt: skip
    return Finding("gpt2", "note", text, source="nanoGPT, README", command=command)
