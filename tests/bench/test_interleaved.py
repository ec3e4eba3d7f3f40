"""Interleaved timing, peak memory, and timing on a GPU."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pygpt.planning import gpu_timing


def test_spread_and_rounds(common: ModuleType) -> None:
    interleaved = importlib.import_module("lib.interleaved")
    assert common.Spread.of([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]) == common.Spread(3.5, 2.0, 5.0, 6)
    order: list[str] = []
    variants = {name: functools.partial(order.append, name) for name in "ab"}
    timer = interleaved.Interleaved(variants, torch.device("cpu"))
    timer.run(4)
    assert {name: len(values) for name, values in timer.seconds.items()} == {"a": 4, "b": 4}
    assert order[:4] == ["a", "a", "b", "b"]  # one to warm up
    rounds = ["".join(sorted(order[i : i + 2])) for i in range(4, len(order), 2)]
    assert rounds == ["ab"] * 3


def test_a_failure_excludes_only_its_variant(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleaved = importlib.import_module("lib.interleaved")
    monkeypatch.setattr(interleaved, "time_once", lambda call, device: call() or 3.0)
    calls = 0

    def no_memory() -> None:
        raise torch.OutOfMemoryError("no memory\nand more")

    def no_memory_later() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            no_memory()

    variants = {"large": no_memory, "good": lambda: None, "growing": no_memory_later}
    timer = interleaved.Interleaved(variants, torch.device("cpu"), (torch.OutOfMemoryError,))
    timer.run(9)
    assert timer.failures == dict.fromkeys(["large", "growing"], "OutOfMemoryError: no memory")
    assert timer.seconds == {"good": [3.0] * 9, "growing": [3.0]}  # what it gave before it failed
    assert timer.milliseconds()["good"].median == 3000.0
    with pytest.raises(torch.OutOfMemoryError):
        interleaved.Interleaved(variants, torch.device("cpu")).run(1)


def test_a_slow_variant_is_skipped_after_two_rounds(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleaved = importlib.import_module("lib.interleaved")
    monkeypatch.setattr(interleaved, "time_once", lambda call, device: call())
    timer = interleaved.Interleaved({"slow": lambda: 9.0, "fast": lambda: 1.0}, torch.device("cpu"))
    timer.run(5, budget_s=4.0)
    assert {name: len(values) for name, values in timer.seconds.items()} == {"slow": 2, "fast": 4}


def test_peak_bytes_is_what_was_allocated_at_once(common: ModuleType) -> None:
    def call() -> torch.Tensor:
        first = torch.ones(1000)
        second = first + 1
        del first
        return second * 2  # two at once, never three

    peak = importlib.import_module("lib.interleaved").peak_bytes(call, torch.device("cpu"))
    assert 2 * 4000 <= peak < 2 * 4000 + 100  # and the numbers 1 and 2


@pytest.mark.parametrize(("takes", "count"), [(0.01, 50), (2.0, 25), (400.0, 10)])
def test_how_often_a_call_is_timed(
    takes: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: empty(size, dtype=dtype))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda: SimpleNamespace(L2_cache_size=8)
    )
    monkeypatch.setattr(gpu_timing, "_one_call", lambda *_: (takes, False))
    assert gpu_timing.milliseconds(list) == [takes] * count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for a CUDA device")
def test_a_call_is_timed_on_the_gpu() -> None:
    x = torch.zeros(1 << 20, device="cuda")
    times = gpu_timing.milliseconds(lambda: x.add_(1))
    assert 10 <= len(times) <= 50
    assert min(times) > 0
    assert x[0].item() >= 3 + len(times)
