"""Interleaved timing: several ways to do one thing, on a machine that is also busy with other work.

Every round runs each way once, in a new order, so that a slow minute falls on all of them. Works on
a CPU and on a GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Figures of the same thing measured several times: the median, and 20th to 80th percentile."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        ordered = sorted(values)
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.2, 0.8))
        return cls(statistics.median(ordered), low, high, len(ordered))


class Interleaved:
    """Times several ways to do one thing, interleaved; figures can be read at any time.

    Args:
        ways: name → call.
        device: waited for before and after each call.
        survived: exceptions that end a way's turns alone, and are noted in `failures`.

    Attributes:
        seconds: of every way that works, turn by turn.
        failures: way → what it raised.
    """

    def __init__(
        self,
        ways: Mapping[str, Call],
        device: torch.device,
        survived: tuple[type[Exception], ...] = (),
    ) -> None:
        self._ways, self._device, self._survived = dict(ways), device, survived
        self.seconds: dict[str, list[float]] = {}
        self.failures: dict[str, str] = {}

    def run(self, rounds: int, budget_s: float = math.inf) -> None:
        """Call every way once to warm it up, and once a round.

        The first round goes along with warming up: a benchmark that is stopped while one way
        compiles has figures of those before it.

        Args:
            rounds: how often.
            budget_s: a way that has taken this long altogether sits out the other rounds, but for
                the first two.
        """
        for name, call in self._ways.items():
            with self._noting(name):
                call()
                self.seconds[name] = []
                self._time(name)
        for turn in range(1, rounds):
            for name in random.sample(list(self.seconds), len(self.seconds)):
                if turn < 2 or sum(self.seconds[name]) < budget_s:
                    with self._noting(name):
                        self._time(name)

    def _time(self, name: str) -> None:
        self.seconds[name].append(time_once(self._ways[name], self._device))

    def milliseconds(self) -> dict[str, Spread]:
        """Of every way that was timed."""
        timed = {name: each for name, each in self.seconds.items() if each}
        return {name: Spread.of(1e3 * s for s in each) for name, each in timed.items()}

    @contextlib.contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._survived as error:
            self.failures[name] = in_a_line(error)
            self.seconds.pop(name, None)


def in_a_line(error: Exception) -> str:
    """An exception's type and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def time_once(call: Call, device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Call, device: torch.device) -> int:
    """The most that a call, after one to warm up, has allocated at once for tensors."""
    call()
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as recorded:
        call()
    allocations = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
