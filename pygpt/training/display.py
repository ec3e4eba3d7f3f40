"""Output of training: a live bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from pygpt.config import TrainConfig
from pygpt.data.mixture import Split, parts_of
from pygpt.data.rows import tokens_per_epoch
from pygpt.evaluation.loss import Evaluation
from pygpt.planning.hardware import device_name
from pygpt.planning.resolve import ResolvedConfig
from pygpt.training.observer import StepReport
from pygpt.utils import cli
from pygpt.utils.cli import say
from pygpt.utils.progress import ProgressBar

logger = logging.getLogger(__name__)


class Output:
    """stdout; when it can't be written any more, nothing is, and no error ends the command.

    A reader may leave (`| head`), a terminal may be closed, a disk may be full.

    Args:
        consequence: what that means for the command, to be said once.
    """

    def __init__(self, consequence: str) -> None:
        self._stream = sys.stdout
        self._consequence = consequence

    def write(self, text: str) -> int:
        """Write, or go silent."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._go_silent(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or go silent."""
        try:
            self._stream.flush()
        except OSError as error:
            self._go_silent(error)

    def __getattr__(self, name: str) -> Any:
        """Whatever else a stream has."""
        return getattr(self._stream, name)

    def _go_silent(self, error: OSError) -> None:
        cli.discard_output(self._stream)
        logger.warning(
            "the output can't be written any more (%s): %s", error.strerror, self._consequence
        )


def describe(console: Console, run: ResolvedConfig, train_split: Split) -> None:
    """Print what is trained, on which data, and how."""
    config = run.config
    n_params = run.model.n_params(positions=False)
    name = device_name(run.device)
    total = config.max_steps * config.batch_tokens
    say(
        console,
        f"{config.preset}: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"context {config.block_size}: {n_params / 1e6:.2f} M parameters (positions not counted)",
    )
    for dataset, share in parts_of(train_split):
        part = f"{float(share):.1%} " if share != 1 else ""
        say(
            console,
            f"data: {part}{dataset.path}, {len(dataset):,} tokens ({dataset.tokenizer.name}); "
            f"{config.max_steps} steps of {config.batch_tokens:,} are "
            f"{float(share) * total / tokens_per_epoch(dataset, config.block_size):.2f} epochs",
        )
    say(
        console,
        f"on {name}, {config.dtype}, {run.accumulation} × {run.micro_batch} sequences a step"
        f"{', compiled' if config.compile else ''}; {config.impl}",
    )
    if run.workers > 1:
        say(console, f"{run.workers} processes of this machine share each step")
    if run.ranks > 1:
        say(console, f"so on each of {run.ranks} processes, by {run.parallel}")
    say(console, f"MFU is the share of {run.peak}")


class Display:
    """Shows training: a live bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console, config: TrainConfig, step: int) -> None:
        self._console = console
        self._config = config
        self._start = time.perf_counter()
        self._bar = ProgressBar(
            "step",
            config.max_steps,
            unit="steps",
            completed=step,
            console=console,
            lines=False,  # every log_interval steps, in on_step
            transient=False,
        )

    def __enter__(self) -> Display:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__(None, None, None)

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.perf_counter() - self._start

    def note(self, text: str) -> None:
        """One line above the bar."""
        say(self._console, text)

    def on_step(self, report: StepReport) -> None:
        """Show a step."""
        text = (
            f"loss {report.train_loss:.4f}  lr {report.lr:.2e}  "
            f"{report.tokens_per_second:,.0f} tokens/s  MFU {report.mfu:.1%}"
        )
        self._bar.update(report.step, text)
        if not self._console.is_interactive and report.step % self._config.log_interval == 0:
            text += f"  {timedelta(seconds=round(self._bar.seconds_left))} left"
            self.note(f"step {report.step}/{self._config.max_steps}  {text}")

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Show an evaluation."""
        self.note(f"step {step}: validation {evaluation}")

    def on_checkpoint(self, path: Path) -> None:
        """Show a checkpoint."""
        self.note(f"saved {path}")
