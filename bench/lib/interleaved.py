"""Interleaved timing of several variants of one computation, on a machine with other load.

Every round calls each variant once, in a new random order, so that a slow period of the machine
affects all variants alike. Works on a CPU and on a GPU.
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
    """Repeated measurements of one thing: the median, and the 20th and 80th percentile."""

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
    """Times several variants, interleaved; the measurements can be read at any time.

    Args:
        variants: name → call.
        device: synchronized before and after each call.
        survived: exceptions that exclude only the variant that raised them; see `failures`.

    Attributes:
        seconds: variant → its time in each round, up to the one in which it failed.
        failures: variant → the exception it raised.
    """

    def __init__(
        self,
        variants: Mapping[str, Call],
        device: torch.device,
        survived: tuple[type[Exception], ...] = (),
    ) -> None:
        self._variants, self._device, self._survived = dict(variants), device, survived
        self.seconds: dict[str, list[float]] = {}
        self.failures: dict[str, str] = {}

    def run(self, rounds: int, budget_s: float = math.inf) -> None:
        """Call every variant once to warm it up, and then once a round.

        The first round is taken together with the warm-up: a benchmark that is stopped while one
        variant compiles then has figures of the variants before it.

        Args:
            rounds: number of rounds.
            budget_s: a variant that has taken longer than this in total is skipped after round 2.
        """
        for name, call in self._variants.items():
            with self._noting(name):
                call()
                self.seconds[name] = []
                self._time(name)
        for round_number in range(1, rounds):
            going = [name for name in self.seconds if name not in self.failures]
            for name in random.sample(going, len(going)):
                if round_number < 2 or sum(self.seconds[name]) < budget_s:
                    with self._noting(name):
                        self._time(name)

    def _time(self, name: str) -> None:
        self.seconds[name].append(time_once(self._variants[name], self._device))

    def milliseconds(self) -> dict[str, Spread]:
        """The spread of every variant that was timed."""
        timed = {name: each for name, each in self.seconds.items() if each}
        return {name: Spread.of(1e3 * s for s in each) for name, each in timed.items()}

    @contextlib.contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._survived as error:
            self.failures[name] = in_a_line(error)


def in_a_line(error: Exception) -> str:
    """An exception's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def time_once(call: Call, device: torch.device) -> float:
    """Seconds of one call, including the device's work."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Call, device: torch.device) -> int:
    """Peak bytes of tensors that a call has allocated, after one call to warm up."""
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
