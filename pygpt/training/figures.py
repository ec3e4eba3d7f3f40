"""The figures of steps: read from the device, and checked for divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from pygpt.planning.resolve import ResolvedConfig
from pygpt.training.observer import LaunchedStep, StepReport
from pygpt.utils.errors import InputError

SECONDS_BETWEEN_READS = 0.5


class Figures:
    """Makes reports of launched steps. Reading waits for a GPU, so it is done now and then.

    Args:
        run: resolved; its micro-batch may change later.
        newest_checkpoint: gives the one that an error names.

    Attributes:
        skipped: steps so far in which float16 overflowed.
    """

    def __init__(self, run: ResolvedConfig, newest_checkpoint: Callable[[], Path | None]) -> None:
        self._batch_tokens = run.config.batch_tokens
        self._learning_rate = run.config.learning_rate
        self._flops_per_token = run.model.flops_per_token()
        self._peak_flops = run.peak.flops * run.ranks
        self._waits = run.device.type == "cuda"
        self._newest_checkpoint = newest_checkpoint
        self._clock = time.perf_counter()
        self.skipped = 0

    def restart_clock(self) -> None:
        """Count the time from here on as that of steps: not what came between them."""
        self._clock = time.perf_counter()

    def are_due(self) -> bool:
        """Whether to read now: on a CPU after every step, since it waits for nothing."""
        return not self._waits or time.perf_counter() - self._clock > SECONDS_BETWEEN_READS

    def read(
        self, launched: list[LaunchedStep], scaling: dict[str, float] | None
    ) -> list[StepReport]:
        """Wait for all launched steps and report them.

        Args:
            launched: the steps since the last call.
            scaling: state of the loss scaling, with float16.

        Raises:
            InputError: a loss or gradient is no longer finite.
        """
        losses = [step.loss.item() for step in launched]
        now = time.perf_counter()
        rate = self._batch_tokens * len(launched) / (now - self._clock)
        self._clock = now
        return [
            self._report(step, loss, rate, scaling)
            for step, loss in zip(launched, losses, strict=True)
        ]

    def _report(
        self, step: LaunchedStep, loss: float, rate: float, scaling: dict[str, float] | None
    ) -> StepReport:
        norm = step.grad_norm.item()
        self.check_finite("the loss", loss, step.step)
        overflowed = bool(scaling and scaling["scale"] >= 1 and not math.isfinite(norm))
        if overflowed:
            self.skipped += 1  # the scale was halved instead
        else:
            self.check_finite("the gradient's norm", norm, step.step)
        return StepReport(
            step=step.step,
            train_loss=loss,
            val_loss=None,
            tokens=step.step * self._batch_tokens,
            tokens_per_second=rate,
            lr=step.lr,
            grad_norm=None if overflowed else norm,
            mfu=rate * self._flops_per_token / self._peak_flops,
            loss_scale=scaling["scale"] if scaling else None,
            skipped_steps=self.skipped if scaling else None,
        )

    def check_finite(self, name: str, value: float, step: int) -> None:
        """Raise InputError where a figure is NaN or infinite: the model has diverged."""
        if math.isfinite(value):
            return
        newest = self._newest_checkpoint()
        kept = f"the last good checkpoint is {newest}" if newest else "there was no checkpoint yet"
        raise InputError(
            f"{name} is {value} at step {step}: training stops; {kept}. Try a lower "
            f"--learning-rate (now {self._learning_rate:g}), a longer --warmup-steps or "
            "--dtype float32"
        )
