"""The harness of the kernel benchmarks: every case, and results after failures and stops."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pygpt.planning import hardware

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ("attention", "layer_norm", "gelu")


@pytest.mark.parametrize("name", NAMES)
def test_harness_end_to_end_on_small_shapes(
    name: str, common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every implementation of every case runs; only the clock is replaced."""
    bench = importlib.import_module(f"bench_{name}")
    machine = {"device": "NVIDIA A GPU", "threads": 1, "torch": "2", "date": "2026-01-01T00:00"}
    calls = 0

    def clock(call: object) -> object:
        nonlocal calls
        assert callable(call)
        call()
        calls += 1
        return common.Spread(1.0, 0.9, 1.2, 10)

    if not torch.cuda.is_available():
        monkeypatch.setattr(common, "DEVICE", "cpu")
        monkeypatch.setattr(bench, "DTYPE", torch.float16)
        monkeypatch.setattr(
            common, "compiled", lambda op, key: torch.compile(op, backend="aot_eager")
        )
    monkeypatch.setattr(common, "time_call", clock)
    monkeypatch.setattr(common, "peak_bytes", lambda call, device: 0)
    monkeypatch.setattr(common.report, "describe_environment", lambda device: machine)
    monkeypatch.setattr(common, "measure_limits", lambda: common.Limits(100.0, 10.0))
    monkeypatch.setattr(common.report, "RESULTS", tmp_path)
    if name == "attention":
        monkeypatch.setattr(bench, "SHAPES", ((1, 8, 1, 16),))
    else:
        monkeypatch.setattr(common, "rows", lambda width: 4)
        monkeypatch.setattr(bench, "WIDTHS", (24,))

    gpu_only = ("sdpa efficient", "sdpa cudnn", "FlexAttention")
    cases = [case for case in bench.cases() if case.impl not in gpu_only]
    assert common.measure(name, cases)
    assert calls == len(cases)
    results = json.loads((tmp_path / f"a-gpu-2026-01-01-{name}.json").read_text("utf-8"))
    assert results["machine"] == machine
    assert results["limits"] == dataclasses.asdict(common.Limits(100.0, 10.0))
    assert [row["impl"] for row in results["results"]] == [case.impl for case in cases]
    assert all(row["share"] > 0 for row in results["results"])
    assert {row["direction"] for row in results["results"]} == {"forward", "backward", "both"}


def test_pytest_collects_the_benchmarks() -> None:
    files = [f"bench/bench_{name}.py" for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--benchmark-enable", "--collect-only", "-q", *files],
        cwd=BENCH.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        assert f"bench/bench_{name}.py::test_{name}[" in done.stdout


def test_one_compilation_serves_every_direction(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "DEVICE", "cpu")
    monkeypatch.setattr(common, "rows", lambda width: 4)
    gelu = importlib.import_module("bench_gelu")
    monkeypatch.setattr(gelu, "DTYPE", torch.float32)
    graphs = 0

    def count(module: torch.fx.GraphModule, inputs: object) -> object:
        nonlocal graphs
        graphs += 1
        return module.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda op, **how: original(op, backend=count, **how))
    monkeypatch.setattr(common, "_compiled", {})
    # `compiled` sets it for good, for a benchmark; other tests have to find it as it was.
    with torch._functorch.config.patch(donated_buffer=True):
        for width in (8, 24):
            for direction in common.DIRECTIONS:
                gelu._make("torch.compile", direction, width)()
    assert graphs == 2


def test_rows_by_gpu_memory(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = 141 * 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory)
    )
    assert common.rows(384) * 384 * 2 == pytest.approx(256 << 20, rel=0.01)
    memory = 8 * 2**30
    assert common.rows(384) * 384 * 2 == pytest.approx(memory / 40, rel=0.01)


def test_after_a_failure_or_a_stop_the_other_results_are_written(
    common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.errors import OutOfResources

    def no_memory() -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(common, "DEVICE", "cpu")
    monkeypatch.setattr(common, "time_call", lambda call: common.Spread(1.0, 1.0, 1.0, 1))
    monkeypatch.setattr(common, "measure_limits", lambda: common.Limits(100.0, 10.0))
    monkeypatch.setattr(common.report, "RESULTS", tmp_path)

    def no_room() -> None:
        raise OutOfResources(2, 1, "shared memory")  # no RuntimeError

    def good() -> object:
        return lambda: torch.ones(9)

    def terminated() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    made = {"bad": no_memory, "wide": no_room, "good": good, "ended": terminated, "late": good}
    cases = [common.Case("op", "forward", impl, "1", make, bytes=1) for impl, make in made.items()]

    def written() -> tuple[list[str], list[str]]:
        (path,) = tmp_path.glob("*-some.json")
        results = json.loads(path.read_text("utf-8"))
        assert path.with_suffix(".png").exists() == bool(importlib.util.find_spec("matplotlib"))
        failures = [": ".join(failure) for failure in results["failures"].items()]
        return [row["impl"] for row in results["results"]], failures

    failures = [
        "op-forward-1-bad: OutOfMemoryError: no memory",
        "op-forward-1-wide: OutOfResources: out of resource: shared memory, Required: 2, Hardware "
        "limit: 1. Reducing block sizes or `num_stages` may help.",
    ]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="1"):
        common.measure("some", cases)
    assert signal.getsignal(signal.SIGTERM) == before
    assert written() == (["good"], [*failures, "the rest: stopped"])
    del cases[3]
    assert not common.measure("some", cases)
    assert written() == (["good", "late"], failures)


STOPPED_TWICE = """
import os, signal
from lib import report

def finish():
    os.kill(os.getpid(), signal.SIGTERM)
    print("written")

with report.reporting(finish, {}):
    os.kill(os.getpid(), getattr(signal, "SIGNAL"))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_sigterm_does_not_end_the_writing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_TWICE.replace("SIGNAL", name)],
        env={**os.environ, "PYTHONPATH": str(BENCH)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "written\n"), done.stderr


def test_every_json_names_machine_versions_and_date(common: ModuleType, tmp_path: Path) -> None:
    common.report.write_json(tmp_path / "new" / "x.json", torch.device("cpu"), {"results": [1]})
    written = json.loads((tmp_path / "new" / "x.json").read_text("utf-8"))
    assert written["results"] == [1]
    machine = written["machine"]
    assert machine["device"]
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert datetime.datetime.fromisoformat(machine["date"]).utcoffset() == datetime.timedelta(0)


def test_a_processor_without_a_model_name_still_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, anything = torch.device("cpu"), platform.processor() or platform.machine()
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "Path", lambda path: file)
    assert hardware.device_name(cpu) == anything  # no such file, as outside Linux
    file.write_text("processor : 0\n", encoding="utf-8")
    assert hardware.device_name(cpu) == anything
    file.write_text("processor : 0\nmodel name\t: A Core\nmodel name : B\n", encoding="utf-8")
    assert hardware.device_name(cpu) == "A Core"
