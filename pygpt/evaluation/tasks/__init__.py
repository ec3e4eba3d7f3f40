"""The tasks that `python -m pygpt.eval --tasks` knows. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import Any

NAMES = (
    "lambada", "wikitext103", "hellaswag", "piqa", "arc_easy", "winogrande", "copa"
)  # fmt: skip


def get_task(name: str) -> Any:
    """The TASK of a module: ``read(directory)`` gives items, ``evaluate(model, items)`` results."""
    return importlib.import_module(f"pygpt.evaluation.tasks.{name}").TASK
