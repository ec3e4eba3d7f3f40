"""How long a call keeps the GPU busy, without the time that Python takes to launch it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SLEEP_CYCLES = 3_000_000
"""A millisecond or two in which the GPU idles while Python launches the call."""
LONGEST_SLEEP = 64 * SLEEP_CYCLES
"""A call that a GPU overtakes in spite of it waits for the GPU itself: its time is what it is."""


def milliseconds(call: Callable[[], object], budget_ms: float = 50.0) -> list[float]:
    """Time single calls on the current CUDA device, by events, with the L2 cache overwritten.

    Before each call the GPU sleeps until Python has launched all of it. Where it woke before that,
    the time is not counted, and it sleeps twice as long from then on.

    Args:
        call: launches what is to be timed; three calls before the first that counts warm it up.
        budget_ms: how long the calls may take together; 10 to 50 of them are timed.

    Returns:
        Milliseconds of each call.
    """
    cache = torch.cuda.get_device_properties().L2_cache_size
    flush = torch.empty(4 * cache, dtype=torch.int8, device="cuda")
    for _ in range(3):  # compiles, and gives the first estimate
        estimate, _ = _one_call(call, flush, SLEEP_CYCLES)
    calls = max(10, min(50, int(budget_ms / max(estimate, 1e-3))))
    times: list[float] = []
    cycles = SLEEP_CYCLES
    while len(times) < calls:
        time, overtook = _one_call(call, flush, cycles)
        if overtook and cycles < LONGEST_SLEEP:
            cycles *= 2
        else:
            times.append(time)
    return times


def _one_call(call: Callable[[], object], flush: Tensor, cycles: int) -> tuple[float, bool]:
    """Milliseconds of a call, and whether the GPU woke before all of it was launched."""
    start, end = _timing_event(), _timing_event()
    flush.zero_()
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    overtook: bool = start.query()  # type: ignore[no-untyped-call]
    end.synchronize()
    return float(start.elapsed_time(end)), overtook


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
