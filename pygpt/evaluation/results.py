"""What an evaluation found, with standard errors, and tables of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Result:
    """One model on one task."""

    task: str
    protocol: str
    """How it was scored, in a few words."""
    examples: int
    accuracy: float | None = None
    accuracy_norm: float | None = None
    """Accuracy with log-probabilities divided by the choices' lengths in characters."""
    perplexity: float | None = None
    bits_per_byte: float | None = None
    stderr: float | None = None
    """Standard error of the accuracy, or of the perplexity where there is no accuracy."""
    perplexity_stderr: float | None = None
    source: str | None = None
    """Where the examples are from: a path, or dataset@commit/file on the Hub."""


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent values and its standard error, by the sample's deviation."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def perplexity_and_stderr(nats: Sequence[float], units: Sequence[float]) -> tuple[float, float]:
    """exp(Σ nats / Σ units) over independent texts, and its standard error by the delta method.

    Args:
        nats: negative log-probability of each text.
        units: words or tokens of each text.
    """
    total, n = math.fsum(units), len(nats)
    rate = math.fsum(nats) / total
    perplexity = math.exp(rate) if rate < 700 else math.inf
    if n == 1:
        return perplexity, math.nan
    squares = math.fsum((a - rate * b) ** 2 for a, b in zip(nats, units, strict=True))
    return perplexity, perplexity * math.sqrt(n / (n - 1) * squares) / total


def as_json(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, dict[str, object]]]:
    """Model → task → fields. A number that is not finite is null: JSON has none."""
    return {
        model: {result.task: _fields(result) for result in found}
        for model, found in results.items()
    }


def _fields(result: Result) -> dict[str, object]:
    fields = dataclasses.asdict(result)
    del fields["task"]
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }


def as_table(results: Mapping[str, Sequence[Result]], *, markdown: bool = False) -> str:
    """One row for each task and model: the figures with ± one standard error."""
    header = ["task", "model", "accuracy", "normalised", "perplexity", "bits/byte", "examples"]
    models = list(results)
    tasks = [result.task for result in results[models[0]]]
    rows = [
        _cells(model, result)
        for task in tasks
        for model in models
        for result in results[model]
        if result.task == task
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [_line(cells, widths, markdown) for cells in (header, *rows)]
    if markdown:
        lines.insert(1, _line(["-" * width for width in widths], widths, markdown))
    protocols = {result.task: result.protocol for result in results[models[0]]}
    notes = [f"{'- ' if markdown else ''}{task}: {text}" for task, text in protocols.items()]
    return "\n".join([*lines, "", *notes])


def _cells(model: str, result: Result) -> list[str]:
    accuracy_error = result.stderr if result.accuracy is not None else None
    return [
        result.task,
        model,
        _figure(result.accuracy, accuracy_error, ".4f"),
        _figure(result.accuracy_norm, None, ".4f"),
        _figure(result.perplexity, result.perplexity_stderr, ",.2f"),
        _figure(result.bits_per_byte, None, ".4f"),
        f"{result.examples:,}",
    ]


def _figure(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return ""
    known = error is not None and math.isfinite(error)  # one example has no standard error
    return f"{value:{form}}" + (f" ± {error:{form}}" if known else "")


def _line(cells: Sequence[str], widths: Sequence[int], markdown: bool) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()
