"""From logs to a report: facts filled in, findings, projections, differences between runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pygpt.config import GPTConfig
from pygpt.reporting import findings
from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.language import Language, Message
from pygpt.reporting.other_runs import other_runs
from pygpt.reporting.projection import outlook
from pygpt.reporting.readers import read_log
from pygpt.reporting.runlog import Facts, RunLog
from pygpt.reporting.schedule import schedule_of
from pygpt.reporting.writing import Writing, write

ASSUMED = "assumed: GPT-2's, padded"


@dataclasses.dataclass(frozen=True)
class RunReport:
    """One run, judged."""

    subject: Subject
    sections: list[tuple[Message, list[Finding]]]

    @property
    def log(self) -> RunLog:
        """What was read."""
        return self.subject.log

    @property
    def findings(self) -> list[Finding]:
        """Of all sections, in their order."""
        return [finding for _, of in self.sections for finding in of]


def build(
    paths: tuple[Path, ...],
    facts: Facts,
    steps: tuple[int, ...] = (),
    completions: int = 0,
    compare: str | None = None,
) -> list[RunReport]:
    """Read and judge runs.

    Args:
        paths: logs or run directories.
        facts: what flags say, which has precedence over the logs.
        steps: to project to; by default the planned end, then 2 and 3⅓ times that.
        completions: prompts for each run's model to continue; see `pygpt.reporting.writing`.
        compare: the model whose completions stand beside them.

    Raises:
        InputError: a log can't be read.
    """
    logs = [read_log(path) for path in paths]
    _tell_apart(logs)
    writings = [write(log.path, completions, compare) if completions else None for log in logs]
    return [_judge(log, facts, steps, writing) for log, writing in zip(logs, writings, strict=True)]


def _tell_apart(logs: list[RunLog]) -> None:
    """Number the runs that have the same name."""
    names = [log.name for log in logs]
    for i, log in enumerate(logs):
        if names.count(log.name) > 1:
            log.name = f"{log.name} ({i + 1})"


def _judge(log: RunLog, facts: Facts, steps: tuple[int, ...], writing: Writing | None) -> RunReport:
    for name, value in facts.known().items():
        log.facts.put(name, value, facts.sources[name])
    if log.facts.vocab_size is None and log.facts.n_embd is not None:
        log.facts.put("vocab_size", 50304, ASSUMED)
    schedule = schedule_of(log)
    others = other_runs(log)
    subject = Subject(log, _model(log.facts), schedule, outlook(log, steps), writing, others)
    return RunReport(subject, findings.sections(subject))


def _model(facts: Facts) -> GPTConfig | None:
    """The shape, where all of it is known; biases are a thousandth of the parameters."""
    if None in (facts.n_layer, facts.n_head, facts.n_embd, facts.vocab_size):
        return None
    names = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")
    shape: dict[str, Any] = {name: getattr(facts, name) for name in names}
    shape["block_size"] = shape["block_size"] or 1024
    return GPTConfig(**shape, bias=bool(facts.bias))


def differences(reports: list[RunReport]) -> dict[str, list[Any]]:
    """Facts that are not the same in all runs: name → the value of each run."""
    known = [report.log.facts.known() for report in reports]
    names = dict.fromkeys(name for facts in known for name in facts)
    rows = {name: [facts.get(name) for facts in known] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def as_fields(reports: list[RunReport], language: Language) -> dict[str, Any]:
    """The object of ``report.json``."""

    def text(message: Message | None) -> str | None:
        return None if message is None else language(message)

    return {
        "runs": [
            {
                "name": report.log.name,
                "path": str(report.log.path),
                "format": report.log.format,
                "steps": report.log.last_step,
                "tokens": report.log.tokens,
                "loss": report.log.final_loss,
                "finished": report.log.finished,
                "running": report.log.running,
                "facts": report.log.facts.known(),
                "sources": report.log.facts.sources,
                "unused_columns": list(report.log.ignored),
            }
            for report in reports
        ],
        "findings": [
            {
                "run": report.log.name,
                "id": finding.id,
                "verdict": finding.verdict,
                "text": text(finding.text),
                "evidence": text(finding.evidence),
                "threshold": text(finding.threshold),
                "source": finding.source or None,
                "command": finding.command,
            }
            for report in reports
            for finding in (*report.findings, *_no_projection(report))
        ],
        "projections": [
            {"run": report.log.name, **dataclasses.asdict(projection)}
            for report in reports
            for projection in report.subject.outlook.projections
        ],
        "backtest": {
            report.log.name: [
                {**dataclasses.asdict(test), "error": test.error}
                for test in report.subject.outlook.backtests
            ]
            for report in reports
        },
    }


def _no_projection(report: RunReport) -> list[Finding]:
    """Why nothing is projected, which pages say in place of the projections."""
    refused = report.subject.outlook.refused
    return [] if refused is None else [Finding("projection", "unknown", refused)]
