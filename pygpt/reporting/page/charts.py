"""Data of the page's plots; ``report.js`` draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pygpt.reporting.build import RunReport
from pygpt.reporting.language import Language, msg
from pygpt.reporting.published import curves
from pygpt.reporting.runlog import Floats

POINTS = 500


def charts(reports: list[RunReport], language: Language) -> list[dict[str, Any]]:
    """Loss by step, loss by tokens beside published runs, then rate, gradient and throughput."""
    step = language(msg("step"))
    plots = [_loss(reports, language, step), _by_tokens(reports, language)]
    for column, title in (
        ("lr", msg("Learning rate")),
        ("grad_norm", msg("Norm of the gradient")),
        ("tokens_per_second", msg("Tokens per second")),
    ):
        series = [
            _line(report.log.name, *report.log.train.known(column), color)
            for color, report in enumerate(reports)
            if report.log.train.has(column)
        ]
        if series:
            plots.append(_plot(column, language(title), step, "", series))
    return [plot for plot in plots if plot["series"]]


def _loss(reports: list[RunReport], language: Language, step: str) -> dict[str, Any]:
    series = []
    for color, report in enumerate(reports):
        log, view = report.log, report.subject.outlook
        train, val = language(msg("training")), language(msg("validation"))
        if len(log.train):
            name = f"{log.name}, {train}"
            series.append(_line(name, *log.train.known("loss"), color, thin=True))
        if len(log.val):
            series.append(_line(f"{log.name}, {val}", *log.val.known("loss"), color))
        if view.projections:
            start = [log.last_step, log.final_loss]
            points = [start, *([p.steps, p.loss] for p in view.projections)]
            band = [
                [log.last_step, log.final_loss, log.final_loss],
                *([p.steps, p.low, p.high] for p in view.projections),
            ]
            projection = language(msg("projection"))
            name = f"{log.name}, {projection}"
            series.append(
                {"name": name, "color": color, "points": points, "dash": True, "band": band}
            )
    return _plot("loss", language(msg("Loss")), step, language(msg("nats per token")), series)


def _by_tokens(reports: list[RunReport], language: Language) -> dict[str, Any]:
    series = []
    for color, report in enumerate(reports):
        log = report.log
        if log.tokens and log.last_step:
            x, y = log.main.known("loss")
            series.append(_line(log.name, x * (log.tokens / log.last_step) / 1e9, y, color))
    if series:
        for i, curve in enumerate(curves()):
            tokens, loss = np.array(curve.tokens) / 1e9, np.array(curve.loss)
            series.append({**_line(curve.name, tokens, loss, 6 + i), "dash": True})
    title = language(msg("Beside published runs, at equal tokens"))
    unit = language(msg("nats per token"))
    return _plot("tokens", title, language(msg("billion tokens")), unit, series)


def _plot(name: str, title: str, x: str, y: str, series: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": name, "title": title, "x": x, "y": y, "series": series}


def _line(name: str, x: Floats, y: Floats, color: int, thin: bool = False) -> dict[str, Any]:
    at, values = _thinned(x, y)
    points = [[float(f"{a:.6g}"), float(f"{b:.5g}")] for a, b in zip(at, values, strict=True)]
    return {"name": name, "color": color, "points": points, "thin": thin}


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most POINTS points: the lowest and the highest of each part, so that spikes stay."""
    if len(x) <= POINTS:
        return x, y
    keep = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), POINTS // 2):
        keep |= {int(part[np.argmin(y[part])]), int(part[np.argmax(y[part])])}
    index = np.array(sorted(keep))
    return x[index], y[index]
