"""Tells over a pipe which phase a command is in, so that it can be killed in a given one."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

PHASES = {
    "prepare": "pygpt.data.writer:_Preparation.__call__",
    "resuming": "pygpt.training.trainer:Trainer.resume",
    "opening": "pygpt.runs.run:Run.open",
    "first step": "pygpt.training.trainer:Trainer.train_step",
    "evaluation": "pygpt.training.trainer:Trainer._evaluate",
    "saving": "pygpt.runs.checkpoint:write",
    "pruning": "pygpt.runs.checkpoint:prune",
    "ending": "pygpt.training.session:conclude",
    "export": "pygpt.hub.export:export",
    "report": "pygpt.reporting.page.files:write",
}
"""Phase → the function whose calls it is; of "first step" only the first call."""


def record(descriptor: int) -> None:
    """Wrap the functions of PHASES: "+PHASE" is written when one is called, "-PHASE" at its end."""
    for phase, name in PHASES.items():
        module, _, path = name.partition(":")
        *classes, attribute = path.split(".")
        owner = functools.reduce(getattr, classes, importlib.import_module(module))
        setattr(owner, attribute, _recorded(getattr(owner, attribute), phase, descriptor))


def _recorded(function: Callable[..., Any], phase: str, descriptor: int) -> Callable[..., Any]:
    called = 0

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        called += 1
        if phase == "first step" and called > 1:
            return function(*args, **kwargs)
        os.write(descriptor, f"+{phase}\n".encode())
        try:
            return function(*args, **kwargs)
        finally:
            os.write(descriptor, f"-{phase}\n".encode())

    return wrapped
