"""The sleep before a timed call, with a stand-in for the GPU's clock."""

from __future__ import annotations

import types

import pytest
import torch

from pygpt.planning import gpu_timing


class _Gpu:
    """Works off what is launched, one after the other; Python's launches take time as well.

    Attributes:
        now: Python's time, ms.
        free: when the GPU is done with all that was launched, ms.
    """

    def __init__(self, launch_ms: float, work_ms: float) -> None:
        self.now = self.free = 0.0
        self.launch_ms, self.work_ms = launch_ms, work_ms

    def sleep(self, cycles: int) -> None:
        self.run(cycles / 2e6)

    def run(self, ms: float) -> None:
        self.free = max(self.free, self.now) + ms

    def call(self) -> None:
        self.now += self.launch_ms
        self.run(self.work_ms)


class _Event:
    def __init__(self, gpu: _Gpu) -> None:
        self._gpu, self._at = gpu, 0.0

    def record(self) -> None:
        self._at = max(self._gpu.free, self._gpu.now)

    def query(self) -> bool:
        return self._gpu.now >= self._at

    def synchronize(self) -> None:
        self._gpu.now = max(self._gpu.now, self._at)

    def elapsed_time(self, end: _Event) -> float:
        return end._at - self._at


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> _Gpu:
    gpu = _Gpu(*request.param)
    monkeypatch.setattr(gpu_timing, "_timing_event", lambda: _Event(gpu))
    monkeypatch.setattr(torch.cuda, "_sleep", gpu.sleep)
    properties = types.SimpleNamespace(L2_cache_size=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: torch.zeros(size))
    return gpu


@pytest.mark.parametrize("gpu", [(0.1, 0.3), (20.0, 0.3)], indirect=True)
def test_the_time_is_the_gpus_alone(gpu: _Gpu) -> None:
    """Launched within the sleep, or in 20 ms, which the first sleep of 1.5 ms is too short for."""
    times = gpu_timing.milliseconds(gpu.call)
    assert len(times) >= 10
    assert times == pytest.approx([0.3] * len(times))


@pytest.mark.parametrize("gpu", [(1000.0, 0.3)], indirect=True)
def test_a_call_that_waits_is_timed_all_the_same(gpu: _Gpu) -> None:
    times = gpu_timing.milliseconds(gpu.call)
    assert len(times) >= 10
    assert min(times) > 800
