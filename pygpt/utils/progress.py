"""The progress bar of every command: what is done, the rate, the time left."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from pygpt.utils.format import duration

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
"""Where there is no terminal, a line is logged this often."""


class ProgressBar:
    """A live bar on a terminal; a line of the log now and then elsewhere.

    Args:
        label: what is being done, such as "encoding".
        total: how much there is to do.
        unit: "bytes" shows sizes, any other word, such as "documents", shows counts.
        completed: how much of it was done before.
        console: where to show it; None is stderr.
        lines: whether lines are logged where there is no terminal.
        transient: whether the bar disappears at the end.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: Literal["bytes"] | str = "",
        completed: int = 0,
        console: Console | None = None,
        lines: bool = True,
        transient: bool = True,
    ) -> None:
        console = console or Console(stderr=True)
        self._label, self._total, self._unit = label, total, unit
        self._done: float = completed
        self._first = completed
        self._start = self._last_line = time.monotonic()
        self._lines = lines and not console.is_interactive
        # Where the terminal is narrow the bar shrinks, then the text; the count never does.
        width = len(f"{label} {self._amount(total)}/{self._amount(total)}")
        self._bar = Progress(
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True, min_width=width)),
            BarColumn(None, table_column=Column(max_width=40)),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            transient=transient,
            disable=not console.is_interactive,
        )
        self._task = self._bar.add_task("", total=total, completed=completed, count=self._count())

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    @property
    def seconds_left(self) -> float:
        """Estimated from the mean rate since the start; 0 before anything is done."""
        done = self._done - self._first
        elapsed = time.monotonic() - self._start
        return (self._total - self._done) * elapsed / done if done else 0.0

    def advance(self, amount: float, text: str | None = None) -> None:
        """Add to what is done."""
        self.update(self._done + amount, text)

    def update(self, completed: float, text: str | None = None) -> None:
        """Set what is done; `text` replaces the rate behind the bar."""
        self._done = completed
        text = self._rate() if text is None else text
        self._bar.update(self._task, completed=completed, description=text, count=self._count())
        now = time.monotonic()
        if self._lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = duration(self.seconds_left)
            logger.info("%s  %s  %s left", self._count().strip(), text, left)

    def _amount(self, value: float) -> str:
        if self._unit == "bytes":
            return decimal(int(value))
        return f"{value:.0f}" if self._unit == "steps" else f"{value:,.0f}"

    def _count(self) -> str:
        total = self._amount(self._total)
        return f"{self._label} {self._amount(self._done):>{len(total)}}/{total}"

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._start
        rate = (self._done - self._first) / elapsed if elapsed else 0.0
        return f"{self._amount(rate)}{'' if self._unit == 'bytes' else ' ' + self._unit}/s"
