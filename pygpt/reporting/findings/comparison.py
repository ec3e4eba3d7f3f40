"""GPT-2 on the same text, where `eval --compare --json` was written into the run's directory.

The file ``comparison.json`` holds model → task → figures, as `pygpt.evaluation.results.as_json`
gives them; the first model is the run's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pygpt.reporting.findings.finding import Finding
from pygpt.reporting.language import msg
from pygpt.reporting.runlog import RunLog

_FIGURES = {
    "bits_per_byte": msg("bits per byte, lower is better"),
    "perplexity": msg("perplexity, lower is better"),
    "accuracy": msg("accuracy, higher is better"),
}


def compared(log: RunLog) -> Iterator[Finding]:
    """A finding for each task that both models were given."""
    models = [
        (name, tasks) for name, tasks in (log.comparison or {}).items() if isinstance(tasks, dict)
    ]
    if len(models) < 2:
        return
    (_, ours), *others = models
    for name, theirs in others:
        for task in ours.keys() & theirs.keys():
            figure = _common(ours[task], theirs[task])
            if figure:
                yield Finding(
                    "compared",
                    "note",
                    msg(
                        "{task}: {ours:.4g}, and {theirs:.4g} for {model}, both evaluated here "
                        "({figure}).",
                        task=task,
                        ours=float(ours[task][figure]),
                        theirs=float(theirs[task][figure]),
                        model=name,
                        figure=_FIGURES[figure],
                    ),
                    source="comparison.json, pygpt.eval",
                )


def _common(ours: Any, theirs: Any) -> str | None:
    """The first figure that both have."""
    both = [of for of in (ours, theirs) if isinstance(of, dict)]
    known = (name for name in _FIGURES if all(isinstance(of.get(name), float) for of in both))
    return next(known, None) if len(both) == 2 else None
