"""``report.html``: one file, nothing loaded from elsewhere."""

from __future__ import annotations

import json
from datetime import datetime
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pygpt.reporting.build import RunReport, differences
from pygpt.reporting.headline import answers
from pygpt.reporting.language import Language, msg
from pygpt.reporting.page.charts import charts

VERDICT_NAMES = {
    "good": msg("good"),
    "note": msg("note"),
    "problem": msg("problem"),
    "unknown": msg("unknown"),
}


def render(reports: list[RunReport], language: Language, refresh: int | None = None) -> str:
    """The page.

    Args:
        reports: one or several runs.
        language: of texts and numbers.
        refresh: seconds after which a browser loads it again.
    """
    files = resources.files("pygpt.reporting.page")
    environment = Environment(
        loader=PackageLoader("pygpt.reporting.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = language.number
    environment.globals["_"] = language
    # "</script>" inside a run's name must not end the element that holds the data.
    data = json.dumps(charts(reports, language)).replace("<", "\\u003c")
    separators = [language.number(1234.5, ",.1f")[i] for i in (1, 5)]
    return environment.get_template("report.html.j2").render(
        reports=reports,
        answers=[answers(report) for report in reports],
        differences=differences(reports),
        verdicts=VERDICT_NAMES,
        language=language.name,
        date=language.date(datetime.now()),
        refresh=refresh,
        data=Markup(data),  # escaped above
        separators=separators,
        style=Markup((files / "report.css").read_text(encoding="utf-8")),
        script=Markup((files / "report.js").read_text(encoding="utf-8")),
    )
