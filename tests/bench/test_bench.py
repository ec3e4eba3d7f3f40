"""The benchmarks, as far as they go without a card: refusal, gpu.sh, harness, what is written."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pygpt.planning import gpu_timing, hardware

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ("attention", "layer_norm", "gelu")


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("lib.common")


@pytest.mark.skipif(torch.cuda.is_available(), reason="waits for a machine without a CUDA device")
def test_no_card_is_status_2(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_gelu.py"])
    with pytest.raises(SystemExit, match="2"):
        common.run("gelu", "Bias + GELU.", list)
    assert "gelu measures a CUDA device and this machine has none" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["bench_gelu.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        common.run("gelu", "Bias + GELU.", list)
    assert "Bias + GELU." in capsys.readouterr().out
    done = subprocess.run(["bash", BENCH / "gpu.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bench/gpu.sh needs a CUDA device" in done.stderr


# --- gpu.sh, with a stand-in for python -----------------------------------------------------------

STUB = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
[[ $1 != -c ]] || { cat >/dev/null; echo "$PREFIX"; exit; }
[[ -z $FAILING || $* != *"$FAILING"* ]]
"""
PARTS = [
    "pytest -q -m gpu",
    "--preset owt-30m",
    "--preset fineweb-40m",
    "--preset gpt2",
    "bench_attention",
    "bench_layer_norm",
    "bench_gelu",
    "bench_linear_cross_entropy",
    "pygpt.tune",
]


def _gpu_sh(
    tmp_path: Path, **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run gpu.sh with a python that only writes its command line down; the result, and those."""
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(STUB, encoding="utf-8")
    stub.chmod(0o755)
    calls = tmp_path / "calls"
    path = f"{stub.parent}:{os.environ['PATH']}"
    prefix = f"{tmp_path}/a-card-2026-01-01-"
    ours = {"PATH": path, "CALLS": str(calls), "PREFIX": prefix, "FAILING": "", "NANOGPT": ""}
    done = subprocess.run(
        ["bash", BENCH / "gpu.sh"],
        env={**os.environ, **ours, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [
        line for line in calls.read_text("utf-8").splitlines() if "-m " in line or ".py" in line
    ]


def test_gpu_sh_runs_everything(tmp_path: Path) -> None:
    done, calls = _gpu_sh(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(calls) == len(PARTS)
    assert all(part in call for part, call in zip(PARTS, calls, strict=True))
    assert f"--json {tmp_path}/a-card-2026-01-01-step-gpt2.json" in calls[3]
    assert not any("--nanogpt" in call for call in calls)
    assert (tmp_path / "a-card-2026-01-01-gpu.log").read_text("utf-8") == done.stdout
    times = done.stdout.partition("where the time went")[2].splitlines()
    assert sum(line.endswith(" ok") for line in times) == len(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_gpu_sh_goes_on_behind_a_failure(part: str, tmp_path: Path) -> None:
    done, calls = _gpu_sh(tmp_path, FAILING=part)
    assert done.returncode == 1
    assert len(calls) == len(PARTS)
    assert done.stdout.count("failed with status 1") == 1


def test_gpu_sh_takes_nanogpt_along(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    _, calls = _gpu_sh(tmp_path, NANOGPT="theirs")
    assert sum(f"--nanogpt {tmp_path}/theirs" in call for call in calls) == 3


def test_gpu_sh_shares_out_less_than_eight_minutes() -> None:
    text = (BENCH / "gpu.sh").read_text("utf-8")
    shares = re.findall(r"^ +(?:run|step) \S+ (\d+)\b|^planned=(\d+)", text, re.MULTILINE)
    seconds = [int(run or planned) for run, planned in shares]
    assert len(seconds) == len(PARTS) + 1
    assert sum(seconds) == int(re.search(r"share of (\d+) s", text)[1])  # type: ignore[index]
    assert sum(seconds) + 5 < 8 * 60


# --- the kernels' harness -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_harness_end_to_end_on_small_shapes(
    name: str, common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every implementation of every case runs; only the clock is a stand-in."""
    bench = importlib.import_module(f"bench_{name}")
    machine = {"device": "NVIDIA A Card", "threads": 1, "torch": "2", "date": "2026-01-01T00:00"}
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

    on_cards_only = ("sdpa efficient", "sdpa cudnn")
    cases = [case for case in bench.cases() if case.impl not in on_cards_only]
    assert common.measure(name, cases)
    assert calls == len(cases)
    results = json.loads((tmp_path / f"a-card-2026-01-01-{name}.json").read_text("utf-8"))
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


def test_rows_of_a_card_of_any_size(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = 141 * 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory)
    )
    assert common.rows(384) * 384 * 2 == pytest.approx(256 << 20, rel=0.01)
    memory = 8 * 2**30
    assert common.rows(384) * 384 * 2 == pytest.approx(memory / 40, rel=0.01)


def test_what_fails_leaves_the_others_and_what_is_stopped_those_before(
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


# --- the machine, the spread, and the step --------------------------------------------------------


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


def test_spread_and_rounds(common: ModuleType) -> None:
    interleaved = importlib.import_module("lib.interleaved")
    assert common.Spread.of([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]) == common.Spread(3.5, 2.0, 5.0, 6)
    order: list[str] = []
    ways = {name: functools.partial(order.append, name) for name in "ab"}
    timing = interleaved.Interleaved(ways, torch.device("cpu"))
    timing.run(4)
    assert {name: len(values) for name, values in timing.seconds.items()} == {"a": 4, "b": 4}
    assert order[:4] == ["a", "a", "b", "b"]  # one to warm up
    rounds = ["".join(sorted(order[i : i + 2])) for i in range(4, len(order), 2)]
    assert rounds == ["ab"] * 3


def test_a_way_that_fails_sits_out_alone(
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

    ways = {"large": no_memory, "good": lambda: None, "growing": no_memory_later}
    timing = interleaved.Interleaved(ways, torch.device("cpu"), (torch.OutOfMemoryError,))
    timing.run(9)
    assert timing.failures == dict.fromkeys(["large", "growing"], "OutOfMemoryError: no memory")
    assert timing.seconds == {"good": [3.0] * 9}
    assert timing.milliseconds()["good"].median == 3000.0
    with pytest.raises(torch.OutOfMemoryError):
        interleaved.Interleaved(ways, torch.device("cpu")).run(1)


def test_a_slow_way_sits_out_all_but_two_rounds(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleaved = importlib.import_module("lib.interleaved")
    monkeypatch.setattr(interleaved, "time_once", lambda call, device: call())
    timing = interleaved.Interleaved(
        {"slow": lambda: 9.0, "fast": lambda: 1.0}, torch.device("cpu")
    )
    timing.run(5, budget_s=4.0)
    assert {name: len(values) for name, values in timing.seconds.items()} == {"slow": 2, "fast": 4}


def test_peak_bytes_is_what_was_allocated_at_once(common: ModuleType) -> None:
    def call() -> torch.Tensor:
        first = torch.ones(1000)
        second = first + 1
        del first
        return second * 2  # two at once, never three

    peak = importlib.import_module("lib.interleaved").peak_bytes(call, torch.device("cpu"))
    assert 2 * 4000 <= peak < 2 * 4000 + 100  # and the numbers 1 and 2


def test_the_cpu_step_has_its_four_ways(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_cpu = importlib.import_module("bench_cpu")
    # Compiling takes half a minute a model.
    monkeypatch.setattr(bench_cpu.bench_step, "compiled", lambda subject: subject)
    options = bench_cpu.Options(
        tokens=16, block_size=8, n_layer=1, widths=(64,), vocab=100, rounds=2
    )
    rows = bench_cpu.step_table(options)
    ways = ["eager", "compile", "native", "native + compile"]
    assert [(row["dtype"], row["implementation"]) for row in rows] == [
        (dtype, way) for dtype in ("float32", "bfloat16") for way in ways
    ]
    assert all(
        row["of_gemm"] * row["gemm_gflop_per_s"] == pytest.approx(row["gflop_per_s"])
        for row in rows
    )
    weights_and_moments = 3 * 4 * (100 * 64 + 8 * 64 + 12 * 64 * 64)
    assert all(row["peak_bytes"] > weights_and_moments for row in rows)
    assert "of GEMM" in capsys.readouterr().out


@pytest.mark.parametrize(("takes", "count"), [(0.01, 50), (2.0, 25), (400.0, 10)])
def test_how_often_a_call_is_timed(
    takes: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: empty(size, dtype=dtype))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda: SimpleNamespace(L2_cache_size=8)
    )
    monkeypatch.setattr(gpu_timing, "_one_call", lambda call, flush: takes)
    assert gpu_timing.milliseconds(list) == [takes] * count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for a CUDA device")
def test_a_call_is_timed_on_the_card() -> None:
    x = torch.zeros(1 << 20, device="cuda")
    times = gpu_timing.milliseconds(lambda: x.add_(1))
    assert 10 <= len(times) <= 50
    assert min(times) > 0
    assert x[0].item() == 3 + len(times)


# --- a whole step ---------------------------------------------------------------------------------

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
    assert [row["subject"] for row in results["results"]] == ["eager", "pygpt"]
    for row in results["results"]:
        assert row["tokens_per_second"]["count"] == 2
        assert row["peak_bytes"] > 0
        assert row["seconds_by_part"]["GEMM"] > 0


def test_a_step_that_is_stopped_or_has_no_room_leaves_what_was_measured(
    bench_step: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    def peak_bytes(bench: object, subject: SimpleNamespace) -> int:
        if subject.name == "pygpt":
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
    assert known == {"eager": 1, "pygpt": None}
    assert all(row["tokens_per_second"]["median"] > 0 for row in results["results"])


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


# --- on paper, and beside nanoGPT -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("roofline.py --card foo", "no data of a card 'foo'"),
        ("bench_step.py --preset foo", "no preset 'foo'; there are fineweb-40m"),
        (
            "compare_nanogpt.py --nanogpt . --data none",
            "there is no none; python -m pygpt.prepare --out none makes it",
        ),
    ],
)
def test_bad_input_is_one_line(command: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    script, *flags = command.split()
    done = subprocess.run(
        [sys.executable, BENCH / script, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
