"""Timing several ways to do one thing on a machine that does other things too: in turns.

Every round runs each way once, in a new order, so that a slow minute falls on all of them. Works on
a CPU and on a GPU.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

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


def measure(
    ways: Mapping[str, Call], rounds: int, device: torch.device, budget_s: float = 30.0
) -> dict[str, Spread]:
    """Milliseconds of every way, timed once a round.

    Args:
        ways: name → call.
        rounds: how often.
        device: waited for before and after each call.
        budget_s: a way that has taken this long altogether sits out the other rounds.
    """
    times = seconds_by_round(ways, rounds, device, budget_s)
    return {name: Spread.of(1e3 * s for s in seconds) for name, seconds in times.items()}


def seconds_by_round(
    ways: Mapping[str, Call], rounds: int, device: torch.device, budget_s: float = math.inf
) -> dict[str, list[float]]:
    """Seconds of every way, round by round, after one call of each to warm it up; see `measure`."""
    for call in ways.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            if sum(seconds[name]) < budget_s:
                seconds[name].append(time_once(ways[name], device))
    return seconds


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
