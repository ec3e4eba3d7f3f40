"""What the trainer reports, and the interface of what displays it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from pygpt.evaluation.loss import Evaluation


@dataclasses.dataclass(frozen=True)
class StepReport:
    """Figures of one step: the fields of ``metrics.jsonl``."""

    step: int
    """Steps done, including this one."""
    train_loss: float
    """Mean over the whole batch of the step, nats per token."""
    val_loss: float | None
    tokens: int
    """Tokens trained on so far, in all starts of the run."""
    tokens_per_second: float
    lr: float
    grad_norm: float
    """Before clipping."""
    mfu: float
    """Model FLOP/s as a share of the peak rate."""

    def fields(self) -> dict[str, Any]:
        """The line of ``metrics.jsonl``."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


class Observer(Protocol):
    """Is called by the trainer, to display its progress."""

    def on_step(self, report: StepReport) -> None: ...

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None: ...

    def on_checkpoint(self, path: Path) -> None: ...
