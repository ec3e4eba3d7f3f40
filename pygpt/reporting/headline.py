"""The three answers that stand first: is it healthy, how far from GPT-2, what next."""

from __future__ import annotations

import dataclasses

from pygpt.reporting.build import RunReport
from pygpt.reporting.findings.finding import Verdict
from pygpt.reporting.language import Message, msg
from pygpt.reporting.projection import LAWS

HEALTH = {"first_loss", "spikes", "finite", "divergence", "overfitting", "batch", "schedule",
          "stalls", "clock", "restarts", "records", "epochs"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question, its short answer, and a sentence."""

    question: Message
    short: Message
    text: Message
    verdict: Verdict


def answers(report: RunReport) -> list[Answer]:
    """The three answers for one run."""
    return [_health(report), _distance(report), _next(report)]


def _health(report: RunReport) -> Answer:
    question = msg("Is it healthy?")
    judged = [finding for finding in report.findings if finding.id in HEALTH]
    problems = [finding for finding in judged if finding.verdict == "problem"]
    if problems:
        short = msg("{n} problems", n=len(problems)) if problems[1:] else msg("One problem")
        return Answer(question, short, problems[0].text, "problem")
    if not judged:
        text = msg("The log has too few records to judge.")
        return Answer(question, msg("Unknown"), text, "unknown")
    others = [finding for finding in report.findings if finding.verdict == "problem"]
    if others:
        return Answer(question, msg("Yes, but"), others[0].text, "good")
    good = sum(finding.verdict == "good" for finding in judged)
    text = msg("{good} of {all} checks are good, none found a problem.", good=good, all=len(judged))
    return Answer(question, msg("Yes"), text, "good")


def _distance(report: RunReport) -> Answer:
    here = next((finding for finding in report.findings if finding.id == "compared"), None)
    if here:
        values = {name: here.text.values[name] for name in ("ours", "theirs")}
        short = msg("{ours:.4g} to {theirs:.4g}", **values)
        return Answer(msg("How far from GPT-2?"), short, here.text, "note")
    found = next(finding for finding in report.findings if finding.id == "gpt2")
    if "gap" not in found.text.values:
        return Answer(msg("How far from GPT-2?"), msg("Unknown"), found.text, "unknown")
    short = msg("{gap:+.2f} nats", gap=found.text.values["gap"])
    return Answer(msg("How far from GPT-2?"), short, found.text, "note")


def _next(report: RunReport) -> Answer:
    question = msg("What would more steps give?")
    view = report.subject.outlook
    if view.projections:
        last = view.projections[0]
        short = msg("{loss:.2f} at step {steps}", loss=last.loss, steps=last.steps)
        text = msg("Between {low:.3f} and {high:.3f}, by the {method}.",
                   low=last.low, high=last.high, method=LAWS[last.method])  # fmt: skip
        return Answer(question, short, text, "note")
    text = view.refused or msg("The run is at its end.")
    return Answer(question, msg("Can't be told yet"), text, "unknown")
