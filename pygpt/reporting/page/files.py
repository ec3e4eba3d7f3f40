"""``report.html``, ``report.md`` and ``report.json`` in a directory."""

from __future__ import annotations

import json
from pathlib import Path

from pygpt.reporting.build import RunReport, as_fields
from pygpt.reporting.language import Language
from pygpt.reporting.page import text
from pygpt.reporting.page.html import render
from pygpt.utils.errors import InputError
from pygpt.utils.files import locked, remove_partial, replace_text


def write(
    out: Path, reports: list[RunReport], language: Language, refresh: int | None = None
) -> Path:
    """Write the three files; returns the page's path.

    Args:
        out: the directory, made if it is not there.
        reports: one or several runs.
        language: of texts and numbers.
        refresh: seconds after which a browser loads the page again.

    Raises:
        InputError: the directory can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        fields = json.dumps(as_fields(reports, language), indent=2, ensure_ascii=False)
        texts = {
            "report.json": fields + "\n",
            "report.md": text.markdown(reports, language),
            "report.html": render(reports, language, refresh),
        }
        with locked(out):
            remove_partial(out, *texts)
            for name, content in texts.items():
                replace_text(out / name, content)
    except OSError as error:
        raise InputError(f"can't write to {out} ({error}); give another --out") from error
    return out / "report.html"
