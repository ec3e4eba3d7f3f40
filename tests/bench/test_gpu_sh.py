"""bench/gpu.sh, with a substitute for python, and the refusal where there is no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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
    assert "bench/gpu.sh needs a CUDA device" in done.stderr


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
    """Run gpu.sh with a python that only records its command lines; the result, and those."""
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(STUB, encoding="utf-8")
    stub.chmod(0o755)
    calls = tmp_path / "calls"
    path = f"{stub.parent}:{os.environ['PATH']}"
    prefix = f"{tmp_path}/a-gpu-2026-01-01-"
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
    assert f"--json {tmp_path}/a-gpu-2026-01-01-step-gpt2.json" in calls[3]
    assert not any("--nanogpt" in call for call in calls)
    assert (tmp_path / "a-gpu-2026-01-01-gpu.log").read_text("utf-8") == done.stdout
    times = done.stdout.partition("where the time went")[2].splitlines()
    assert sum(line.endswith(" ok") for line in times) == len(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_gpu_sh_continues_after_a_failure(part: str, tmp_path: Path) -> None:
    done, calls = _gpu_sh(tmp_path, FAILING=part)
    assert done.returncode == 1
    assert len(calls) == len(PARTS)
    assert done.stdout.count("failed with status 1") == 1


def test_gpu_sh_passes_nanogpt_on(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    _, calls = _gpu_sh(tmp_path, NANOGPT="theirs")
    assert sum(f"--nanogpt {tmp_path}/theirs" in call for call in calls) == 3


def test_gpu_sh_plans_less_than_eight_minutes() -> None:
    text = (BENCH / "gpu.sh").read_text("utf-8")
    shares = re.findall(r"^ +(?:run|step) \S+ (\d+)\b|^planned=(\d+)", text, re.MULTILINE)
    seconds = [int(run or planned) for run, planned in shares]
    assert len(seconds) == len(PARTS) + 1
    assert sum(seconds) == int(re.search(r"share of (\d+) s", text)[1])  # type: ignore[index]
    assert sum(seconds) + 5 < 8 * 60
