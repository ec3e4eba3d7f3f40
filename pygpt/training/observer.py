"""What the trainer reports, and the interface of what displays it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pygpt.evaluation.loss import Evaluation


@dataclasses.dataclass(frozen=True)
class LaunchedStep:
    """A step that the device may still be computing: reading its figures waits for it."""

    step: int
    """Steps done, including this one."""
    loss: Tensor
    grad_norm: Tensor
    lr: float


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
    grad_norm: float | None
    """Before clipping. None where float16 overflowed, so that the step was skipped."""
    mfu: float
    """Model FLOP/s as a share of the peak rate."""
    loss_scale: float | None = None
    """What the loss was scaled by, with float16, when the figures were read."""
    skipped_steps: int | None = None
    """Steps so far in which float16 overflowed."""
    val_losses: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of a mixture, by the names of its parts; `val_loss` is their weighted total."""

    def fields(self) -> dict[str, Any]:
        """The line of ``metrics.jsonl``; a part's loss is ``val_loss/NAME``."""
        fields = {
            key: value for key, value in dataclasses.asdict(self).items() if value is not None
        }
        parts = fields.pop("val_losses")
        return fields | {f"val_loss/{name}": loss for name, loss in parts.items()}


class Observer(Protocol):
    """Is called by the trainer, to display its progress."""

    def on_step(self, report: StepReport) -> None: ...

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None: ...

    def on_checkpoint(self, path: Path) -> None: ...


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_step(self, report: StepReport) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_step(report)

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_evaluation(step, evaluation)

    def on_checkpoint(self, path: Path) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_checkpoint(path)
