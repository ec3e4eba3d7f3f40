"""bench/gpu.sh, with a substitute for python, and the refusal where there is no GPU."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.skipif(torch.cuda.is_available(), reason="waits for a machine without a CUDA device")
def test_no_gpu_is_status_2(
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
    assert "bench/gpu.sh needs PyTorch and a CUDA device" in done.stderr


STUB = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
    *venv*) exit ;;
    *results_path*) echo "$PREFIX" ;;
    *backends/nvidia*) echo /bundled/ptxas ;;
    *installed_ptxas*) echo "$NEWER" ;;
    *kernel_bits*) echo "attention: ${TRITON_PTXAS_PATH-}" | sed "s/$SAME.*//" ;;
esac
[[ -z $FAILING || $* != *"$FAILING"* ]]
"""
PARTS = {
    "tests": ["bench_attention"],
    "steps": ["--preset owt-30m", "--preset fineweb-40m", "--preset gpt2", "check_training"],
    "ops": [
        "bench_layer_norm", "bench_gelu", "bench_linear_cross_entropy", "bench_host_time",
        "pygpt.tune",
    ],
}  # fmt: skip
STEPS = [step for part in PARTS.values() for step in part]


NAME = "a-gpu-2026-01-01-"


class Result:
    """What a run of gpu.sh left: its status, its output and the command lines of `python`."""

    def __init__(self, status: int, out: str, err: str, folder: Path) -> None:
        self.status, self.out, self.err = status, out, err
        self.all = (folder / "calls").read_text("utf-8").splitlines()
        self.steps = [call for call in self.all if any(step in call for step in STEPS)]
        self.prefix = f"{folder}/{NAME}"


def _start(tmp_path: Path, stub: str = STUB, **environment: str) -> subprocess.Popen[str]:
    """Start gpu.sh with a python that only records its command lines, in a session of its own."""
    root = tmp_path / "checkout"
    stubs = [tmp_path / "bin" / "python3", root / "build/gpu-venv/bin/python"]
    for path in stubs:
        path.parent.mkdir(parents=True)
        path.write_text(stub, encoding="utf-8")
        path.chmod(0o755)
    (root / "bench").mkdir()
    shutil.copy(BENCH / "gpu.sh", root / "bench")
    shutil.copy(BENCH.parent / "pyproject.toml", root)
    for name, text in {"kernels": "", "ops": "@gpu", "data": "@gpu", "hub": ""}.items():
        (root / "tests" / name).mkdir(parents=True)
        (root / "tests" / name / "test_it.py").write_text(text, encoding="utf-8")
    ours = {
        "PATH": f"{stubs[0].parent}:{os.environ['PATH']}", "CALLS": f"{tmp_path}/calls",
        "PREFIX": f"{tmp_path}/{NAME}", "FAILING": "", "NANOGPT": "", "WHEELS": "",
        "NEWER": "/newer/ptxas", "SAME": " ",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", root / "bench/gpu.sh"],
        env={**os.environ, **ours, **environment},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _gpu_sh(tmp_path: Path, **environment: str) -> Result:
    """Run gpu.sh to its end."""
    process = _start(tmp_path, **environment)
    out, err = process.communicate(timeout=200)
    return Result(process.returncode, out, err, tmp_path)


def test_gpu_sh_runs_everything(tmp_path: Path) -> None:
    result = _gpu_sh(tmp_path)
    assert result.status == 0, result.out + result.err
    assert len(result.steps) == len(STEPS)
    assert all(step in call for step, call in zip(STEPS, result.steps, strict=True))
    assert f"--json {result.prefix}step-gpt2.json" in result.steps[3]
    assert not any("--nanogpt" in call for call in result.all)
    tests = [call for call in result.all if "-m pytest" in call]
    assert sorted(call.rpartition(" ")[2] for call in tests) == [
        "tests/data/test_it.py",
        "tests/kernels/test_it.py",
        "tests/ops/test_it.py",
    ]
    assert "the same bits" in result.out
    times = result.out.partition("where the time went")[2].splitlines()
    assert sum(line.endswith(" ok") for line in times) == len(STEPS) + 3


def test_gpu_sh_packs_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a-gpu-2026-01-01-step-gpt2.json").write_text("{}", encoding="utf-8")
    result = _gpu_sh(tmp_path, PARTS="ops")
    with tarfile.open(f"{result.prefix}gpu.tar.gz") as packed:
        names = packed.getnames()
        assert sorted(names) == ["a-gpu-2026-01-01-gpu.log", "a-gpu-2026-01-01-step-gpt2.json"]
        log = packed.extractfile("a-gpu-2026-01-01-gpu.log")
        assert log
        assert log.read().decode() == result.out


@pytest.mark.parametrize("part", PARTS)
def test_gpu_sh_runs_one_part(part: str, tmp_path: Path) -> None:
    result = _gpu_sh(tmp_path, PARTS=part)
    assert result.status == 0, result.out + result.err
    assert len(result.steps) == len(PARTS[part])


@pytest.mark.parametrize("step", ["tests/ops", "--preset gpt2", "pygpt.tune"])
def test_gpu_sh_continues_after_a_failure(step: str, tmp_path: Path) -> None:
    result = _gpu_sh(tmp_path, FAILING=step)
    assert result.status == 1
    assert len(result.steps) == len(STEPS)
    assert len(re.findall(r"failed with status \d", result.out)) == 1


def test_gpu_sh_shows_bits_that_differ(tmp_path: Path) -> None:
    result = _gpu_sh(tmp_path, PARTS="tests", SAME="nothing")
    assert result.status == 1
    assert "< attention: /bundled/ptxas" in result.out
    assert "> attention: /newer/ptxas" in result.out


def test_gpu_sh_keeps_what_was_measured_when_it_is_stopped(tmp_path: Path) -> None:
    """SIGTERM in the second step, to the process and its group, as `timeout` sends it."""
    slow = STUB.replace("[[ -z", "[[ $* != *bench_gelu* ]] || exec sleep 100\n[[ -z")
    process = _start(tmp_path, slow, PARTS="ops")
    calls = tmp_path / "calls"
    while not calls.exists() or "bench_gelu" not in calls.read_text("utf-8"):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    with tarfile.open(tmp_path / f"{NAME}gpu.tar.gz") as packed:
        log = packed.extractfile(f"{NAME}gpu.log")
        assert log
        assert "=== gelu" in log.read().decode()


def test_gpu_sh_installs_from_wheels(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    result = _gpu_sh(tmp_path, PARTS="ops", WHEELS="wheels", FAILING="import pygpt._C")
    pip = [call for call in result.all if " install -q " in call]
    assert len(pip) == 4
    assert all(f"--no-index --find-links {tmp_path}/wheels" in call for call in pip[:3])
    assert "--ignore-installed" in pip[0]
    assert " cmake>=" in pip[0]
    assert " tiktoken>=" in pip[1]
    assert not any(re.search(r" (torch|triton)\b", call) for call in pip)
    assert "--no-build-isolation" in pip[3]
    assert len(result.steps) == len(PARTS["ops"])


def test_gpu_sh_says_what_an_installation_lacks(tmp_path: Path) -> None:
    result = _gpu_sh(tmp_path, FAILING="p")  # neither imports nor pip
    assert result.status == 2


def test_gpu_sh_passes_nanogpt_on(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    result = _gpu_sh(tmp_path, PARTS="steps", NANOGPT="theirs")
    assert sum(f"--nanogpt {tmp_path}/theirs" in call for call in result.steps) == 3


def test_gpu_sh_refuses_an_unknown_part(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", BENCH / "gpu.sh"],
        env={**os.environ, "PARTS": "ops speed"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no part speed; there are tests, steps and ops" in done.stderr


def test_gpu_sh_plans_at_most_nine_minutes_a_part() -> None:
    text = (BENCH / "gpu.sh").read_text("utf-8")
    for part, steps in PARTS.items():
        body = text.partition(f"part_{part}() {{")[2].partition("\n}")[0]
        shares = re.findall(r'^    (?:run (?:"[^"]+"|\S+)|step \S+) (\d+)\b', body, re.MULTILINE)
        assert len(shares) >= len(steps)
        assert sum(map(int, shares)) <= 540 == int(re.search(r"PART_SECONDS=(\d+)", text)[1])  # type: ignore[index]
