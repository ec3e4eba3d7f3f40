"""Ctrl-C, SIGTERM and SIGHUP as a request to stop after the step, so that nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class StopSignal:
    """Whether the user asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def stop_on_signals(notice: Callable[[str], None]) -> Iterator[StopSignal]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request to stop after the step.

    The second ends the process, unless it is a SIGHUP again. A SIGHUP that is ignored (nohup)
    stays ignored.
    """
    stop = StopSignal()
    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handled.append(signal.SIGHUP)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number)
        notice(f"{stop.signal.name}: finishing the step and saving; once more to stop at once")
        for each in handled:
            signal.signal(each, before[each])
        if number == signal.SIGHUP:
            # A closed terminal sends it twice: the system does, and then the shell.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    before = {each: signal.signal(each, handle) for each in handled}
    try:
        yield stop
    finally:
        for each in handled:
            signal.signal(each, before[each])
