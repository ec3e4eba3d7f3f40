"""How long a call keeps the GPU busy, without the time that Python takes to launch it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def milliseconds(call: Callable[[], object], budget_ms: float = 50.0) -> list[float]:
    """Time single calls on the current CUDA device, by events, with the L2 cache overwritten.

    Args:
        call: launches what is to be timed; three calls before the first that counts warm it up.
        budget_ms: how long the calls may take together; 10 to 50 of them are timed.

    Returns:
        Milliseconds of each call.
    """
    cache = torch.cuda.get_device_properties().L2_cache_size
    flush = torch.empty(4 * cache, dtype=torch.int8, device="cuda")
    for _ in range(3):  # compiles, and gives the first estimate
        estimate = _one_call(call, flush)
    calls = max(10, min(50, int(budget_ms / max(estimate, 1e-3))))
    return [_one_call(call, flush) for _ in range(calls)]


def _one_call(call: Callable[[], object], flush: Tensor) -> float:
    start, end = _timing_event(), _timing_event()
    flush.zero_()
    # A millisecond or two of idle time on the GPU, while Python launches the call: what is timed
    # is the GPU alone.
    torch.cuda._sleep(3_000_000)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
