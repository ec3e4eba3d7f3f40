"""The report as Markdown and on the terminal."""

from __future__ import annotations

import re

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pygpt.reporting.build import RunReport, differences
from pygpt.reporting.findings.finding import VERDICTS
from pygpt.reporting.headline import answers
from pygpt.reporting.language import Language, Message, msg
from pygpt.reporting.page.html import VERDICT_NAMES
from pygpt.reporting.projection import LAWS, Backtest

COLORS = {"good": "green", "note": "blue", "problem": "bold red", "unknown": "dim"}
SIGNS = {"good": "✓", "note": "·", "problem": "✗", "unknown": "?"}


def markdown(reports: list[RunReport], language: Language) -> str:
    """``report.md``."""
    lines = []
    for report in reports:
        lines += [f"# {_as_written(report.log.name)}", ""]
        for answer in answers(report):
            question, short = language(answer.question), language(answer.short)
            lines.append(f"- **{question}** {short}. {_as_written(language(answer.text))}")
        for title, findings in report.sections:
            lines += ["", f"## {language(title)}", ""]
            for finding in findings:
                name = language(VERDICT_NAMES[finding.verdict])
                lines.append(f"- **{name}**: {_as_written(language(finding.text))}")
                lines += [
                    f"  - {language(label)}: {_as_written(language(message))}"
                    for label, message in (
                        (msg("Evidence"), finding.evidence),
                        (msg("Threshold"), finding.threshold),
                        (msg("Source"), finding.source or None),
                    )
                    if message
                ]
                lines += [f"  - {_code(finding.command)}"] if finding.command else []
        lines += ["", *_outlook(report, language), ""]
    rows = differences(reports)
    if rows:
        lines += [f"## {language(msg('Differences between the runs'))}", ""]
        names = [report.log.name for report in reports]
        lines += _table([language(msg("Setting")), *names], [[k, *v] for k, v in rows.items()])
    return "\n".join(lines) + "\n"


def _as_written(text: str) -> str:
    """Escape what Markdown would read as markup: a model may write anything."""
    return re.sub(r"([\\`*<!|\[\]])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A text as code, in more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _outlook(report: RunReport, language: Language) -> list[str]:
    view = report.subject.outlook
    lines = [f"## {language(msg('What more steps would give'))}", ""]
    if view.refused:
        lines.append(language(view.refused))
    if view.projections:
        names = (msg("Step"), msg("Loss"), msg("Interval"), msg("Method"))
        rows: list[list[object]] = [
            [
                language.number(p.steps),
                language.number(p.loss, ".3f"),
                f"{language.number(p.low, '.3f')} – {language.number(p.high, '.3f')}",
                language(LAWS[p.method]),
            ]
            for p in view.projections
        ]
        lines += _table([language(name) for name in names], rows)
    lines += ["", language(view.caveat)] if view.caveat else []
    for test in view.backtests:
        lines += ["", language(backtest_message(test))]
    return lines


def backtest_message(test: Backtest) -> Message:
    """One sentence for a backtest."""
    return msg(
        "Backtest: fitted to step {fitted}, the {method} gave {predicted:.3f} for {actual:.3f} at "
        "step {step}, an error of {error:+.3f}.",
        fitted=test.fitted_to,
        method=LAWS[test.method],
        predicted=test.predicted,
        actual=test.actual,
        step=test.predicts,
        error=test.error,
    )


def _table(names: list[str], rows: list[list[object]]) -> list[str]:
    def cells(row: list[object]) -> str:
        texts = ("–" if cell is None else _as_written(str(cell)) for cell in row)
        return "| " + " | ".join(texts) + " |"

    return [cells([*names]), cells(["---"] * len(names)), *(cells(row) for row in rows)]


def show(console: Console, reports: list[RunReport], language: Language) -> None:
    """A screenful for each run: the three answers, then what is not good, then projections."""
    for report in reports:
        console.print(Text(report.log.name, style="bold"))
        for answer in answers(report):
            line = Text(f"{language(answer.question)} ")
            line.append(language(answer.short), style=COLORS[answer.verdict])
            console.print(line)
        for finding in sorted(report.findings, key=lambda one: VERDICTS.index(one.verdict)):
            if finding.verdict == "good":
                continue
            sign = Text(f"{SIGNS[finding.verdict]} ", style=COLORS[finding.verdict])
            sign.append(language(finding.text), style="default")
            console.print(Padding(sign, (0, 0, 0, 2)))
            if finding.id == "completion" and finding.evidence:
                figures = Text(language(finding.evidence), style="dim")
                console.print(Padding(figures, (0, 0, 0, 6)))
            if finding.verdict == "problem" and finding.command:
                console.print(f"      {finding.command}", markup=False, soft_wrap=True)
        good = [finding for finding in report.findings if finding.verdict == "good"]
        if good:
            n = msg("{n} checks are good.", n=len(good))
            console.print(Text(f"  ✓ {language(n)}", style="green"))
        view = report.subject.outlook
        if view.refused:
            console.print(f"  {language(view.refused)}", markup=False, highlight=False)
        for projection in view.projections[1:]:
            more = msg("Step {steps}: {loss:.3f} ({low:.3f} to {high:.3f}).",
                       steps=projection.steps, loss=projection.loss,
                       low=projection.low, high=projection.high)  # fmt: skip
            console.print(f"  {language(more)}", markup=False, highlight=False)
        for test in view.backtests:
            text = language(backtest_message(test))
            console.print(f"  {text}", markup=False, highlight=False)
