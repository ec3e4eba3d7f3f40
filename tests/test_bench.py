"""The benchmarks, as far as they go without a card: refusal, cases, and the harness end to end."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"
NAMES = ("attention", "layer_norm", "gelu")


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("common")


@pytest.mark.skipif(torch.cuda.is_available(), reason="waits for a machine without a CUDA device")
def test_no_card_is_status_2(common: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert common.main("gelu", []) == 2
    assert "gelu measures a CUDA device and this machine has none" in capsys.readouterr().err
    done = subprocess.run(["bash", BENCH / "gpu.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bench/gpu.sh needs a CUDA device" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_harness_end_to_end_on_small_shapes(
    name: str, common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every implementation of every case runs; only the clock is a stand-in."""
    bench = importlib.import_module(f"bench_{name}")
    machine = {"card": "NVIDIA A Card", "date": "2026-01-01T00:00:00"}
    calls = 0

    def clock(call: object) -> object:
        nonlocal calls
        assert callable(call)
        call()
        calls += 1
        return common.Timing(1.0, 0.9, 1.2, 10)

    if not torch.cuda.is_available():
        monkeypatch.setattr(common, "DEVICE", "cpu")
        monkeypatch.setattr(bench, "DTYPE", torch.float16)
        monkeypatch.setattr(common, "compiled", lambda op: torch.compile(op, backend="aot_eager"))
    monkeypatch.setattr(common, "time_call", clock)
    monkeypatch.setattr(common, "peak_megabytes", lambda call: 0.0)
    monkeypatch.setattr(common, "describe_machine", lambda: machine)
    monkeypatch.setattr(common, "measure_limits", lambda: common.Limits(100.0, 10.0))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    if name == "attention":
        monkeypatch.setattr(bench, "SHAPES", ((1, 8, 1, 16),))
    else:
        monkeypatch.setattr(bench, "ROWS", 4)
        monkeypatch.setattr(bench, "WIDTHS", (24,))

    on_cards_only = ("sdpa efficient", "sdpa cudnn")
    cases = [case for case in bench.cases() if case.impl not in on_cards_only]
    common.measure(name, cases)
    assert calls == len(cases)
    results = json.loads((tmp_path / f"a-card-2026-01-01-{name}.json").read_text("utf-8"))
    assert results["machine"] == machine
    assert results["limits"] == dataclasses.asdict(common.Limits(100.0, 10.0))
    assert [row["impl"] for row in results["results"]] == [case.impl for case in cases]
    assert all(row["share"] > 0 for row in results["results"])
    assert {row["direction"] for row in results["results"]} == {"forward", "backward", "both"}
