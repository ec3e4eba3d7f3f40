"""The benchmarks of a whole training step."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pygpt.planning import hardware


def test_the_cpu_step_has_four_variants(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_cpu = importlib.import_module("bench_cpu")
    # Compiling takes half a minute a model.
    monkeypatch.setattr(bench_cpu.bench_step, "compiled", lambda subject: subject)
    options = bench_cpu.Options(
        tokens=16, block_size=8, n_layer=1, widths=(64,), vocab=100, rounds=2
    )
    rows = bench_cpu.step_table(options)
    variants = ["eager", "compile", "native", "native + compile"]
    assert [(row["dtype"], row["implementation"]) for row in rows] == [
        (dtype, way) for dtype in ("float32", "bfloat16") for way in variants
    ]
    assert all(
        row["of_gemm"] * row["gemm_gflop_per_s"] == pytest.approx(row["gflop_per_s"])
        for row in rows
    )
    weights_and_moments = 3 * 4 * (100 * 64 + 8 * 64 + 12 * 64 * 64)
    assert all(row["peak_bytes"] > weights_and_moments for row in rows)
    assert "of GEMM" in capsys.readouterr().out


TINY_STEP = {"vocab_size": 64, "micro_batch": 1, "accumulation": 1, "steps": 1, "compile": False}


@pytest.fixture
def bench_step(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("bench_step")
    monkeypatch.setattr(module, "peak_flops", lambda device, dtype: hardware.Peak(1e12, "assumed"))
    return module


def test_a_step_and_its_parts(bench_step: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert bench_step.main(bench_step.Options(**TINY_STEP, rounds=2, device="cpu", json=path)) == 0
    results = json.loads(path.read_text("utf-8"))
    assert results["failures"] == {}
    assert [row["subject"] for row in results["results"]] == ["pygpt", "eager"]
    for row in results["results"]:
        assert row["tokens_per_second"]["count"] == 2
        assert row["peak_bytes"] > 0
        assert row["seconds_by_part"]["GEMM"] > 0


def test_a_stopped_or_too_large_step_leaves_the_other_results(
    bench_step: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    def peak_bytes(bench: object, subject: SimpleNamespace) -> int:
        if subject.name == "eager":
            os.kill(os.getpid(), signal.SIGTERM)
        return 1

    two = bench_step.subjects

    def subjects(*arguments: object) -> list[object]:
        found = two(*arguments)
        return [dataclasses.replace(found[0], name="large", loss=no_memory), *found]

    monkeypatch.setattr(bench_step, "subjects", subjects)
    monkeypatch.setattr(bench_step, "peak_bytes", peak_bytes)
    path = tmp_path / "step.json"
    with pytest.raises(SystemExit, match="1"):
        bench_step.main(bench_step.Options(**TINY_STEP, rounds=1, device="cpu", json=path))
    results = json.loads(path.read_text("utf-8"))
    assert results["failures"] == {"large": "OutOfMemoryError: no memory", "the rest": "stopped"}
    known = {row["subject"]: row.get("peak_bytes") for row in results["results"]}
    assert known == {"pygpt": 1, "eager": None}
    assert all(row["tokens_per_second"]["median"] > 0 for row in results["results"])


def test_what_matters_most_is_measured_first(
    bench_step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is there where the time runs out; each compiled as a run, or nanoGPT, does it."""
    given: list[dict[str, object]] = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: given.append(options) or function
    )
    theirs = torch.nn.Linear(1, 1)
    monkeypatch.setattr(bench_step.nanogpt, "build", lambda *_: (theirs, None))
    options = bench_step.Options(
        **TINY_STEP | {"compile": True}, device="cpu", nanogpt=Path("theirs")
    )
    found = bench_step.subjects(bench_step._bench(options), options)
    assert [subject.name for subject in found] == [
        "pygpt, compiled", "nanoGPT, compiled", "eager, compiled", "pygpt", "nanoGPT", "eager",
    ]  # fmt: skip
    assert given == [bench_step.COMPILE, {}, bench_step.COMPILE]


def test_the_default_micro_batch_is_bounded(
    bench_step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[int] = []
    monkeypatch.setattr(bench_step, "MICRO_BATCH_TOKENS", 3 * 64)
    monkeypatch.setattr(
        bench_step.Plan, "largest_micro_batch", lambda plan, most: free.append(most) or 12
    )
    options = bench_step.Options(preset="stdlib-cpu", vocab_size=64, device="cpu")
    block_size = bench_step.from_preset("stdlib-cpu").block_size
    assert bench_step._bench(options).micro_batch == max(1, 3 * 64 // block_size)
    assert free[0] > 0
