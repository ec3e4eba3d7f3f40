"""The launch table: complete, within the GPUs' limits, and replaced only on request."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pygpt.kernels import launch, toolchain

ROOT = Path(__file__).parents[2]

# A process of its own: TRITON_INTERPRET, which the other tests need, takes the compiler away.
COMPILE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import aot_report
if __name__ == "__main__":
    wanted = [tuple(job) for job in json.loads(sys.argv[2])]
    jobs = [
        (key, entry, dtype)
        for key, entry, dtype in aot_report.jobs_for()
        if (key.architecture, key.op, key.size, dtype) in wanted
    ]
    assert len(jobs) == len(wanted), f"{len(wanted)} entries asked for, {len(jobs)} found"
    for result in aot_report.report(jobs, dropout=json.loads(sys.argv[3])):
        print(f"{result.key} {result.dtype}: {result.registers} registers", result.fault, sep="|")
"""


@pytest.fixture(autouse=True)
def _built_in_table() -> Iterator[None]:
    launch.use_table(None)
    yield
    launch.use_table(None)


def _compile(
    jobs: list[tuple[str, str, int, str]], cache: Path, dropout: bool = False
) -> list[str]:
    """The faults of the named entries: (architecture, operator, size class, dtype)."""
    script = cache / "compile.py"
    script.write_text(COMPILE, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache / "triton")
    done = subprocess.run(
        [sys.executable, script, ROOT / "bench", json.dumps(jobs), json.dumps(dropout)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(jobs)
    return [line for line in lines if not line.endswith("|")]


def test_entries_fit_their_architectures(tmp_path: Path, seed: int) -> None:
    """What a GPT-2 trains with on every architecture, and others drawn at random each time.

    ``python bench/aot_report.py`` compiles them all.
    """
    ops = (
        ("attention_forward", 64), ("attention_dkdv", 64), ("attention_dq", 64),
        ("attention_forward", 32), ("attention_dkdv", 32), ("attention_dq", 32),
        ("layer_norm_forward", 1024), ("layer_norm_backward", 1024), ("gelu_backward", 0),
        ("cross_entropy", 0),
    )  # fmt: skip
    jobs = {(arch, op, size, "bfloat16") for arch in launch.ARCHITECTURES for op, size in ops}
    for key in random.Random(seed).sample(sorted(launch.TABLE), 6):
        dtype = "float16" if key.bits == 16 else "float32"
        jobs.add((key.architecture, key.op, key.size, dtype))
    assert _compile(sorted(jobs), tmp_path) == []


def test_attention_with_dropout_fits_its_architectures(tmp_path: Path, seed: int) -> None:
    """At one head size and architecture, another one each time."""
    arch, size = random.Random(seed).choice(
        [(a, s) for a in launch.ARCHITECTURES for s in (32, 64)]
    )
    ops = ("attention_forward", "attention_dkdv", "attention_dq")
    assert _compile([(arch, op, size, "bfloat16") for op in ops], tmp_path, dropout=True) == []


def test_table_is_complete() -> None:
    operators = {key.op for key in launch.TABLE}
    sizes = {op: {key.size for key in launch.TABLE if key.op == op} for op in operators}
    expected = {
        launch.Key(arch, op, size, bits)
        for arch in launch.ARCHITECTURES
        for op in operators
        for size in sizes[op]
        for bits in (16, 32)
    }
    assert set(launch.TABLE) == expected
    assert sizes["attention_forward"] == set(launch.HEAD_CLASSES)
    assert sizes["layer_norm_backward"] == set(launch.WIDTH_CLASSES)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((8, 0), "sm_80"), ((8, 6), "sm_89"), ((8, 7), "sm_80"), ((8, 9), "sm_89"),
        ((9, 0), "sm_90"), ((10, 0), "sm_90"), ((12, 0), "sm_89"), ((13, 0), "sm_90"),
    ],
)  # fmt: skip
def test_architecture(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(toolchain, "prepare", lambda capability: None)
    assert launch.architecture.__wrapped__(torch.device("cuda", 0)) == expected


def test_old_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match=r"Tesla T4 is sm_75.*sm_80 or newer.*impl='eager'"):
        launch.architecture.__wrapped__(torch.device("cuda", 0))


def test_tuned_table_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.empty(1)
    key = launch.Key(launch.architecture(x.device), "gelu_forward", 0, 32)
    tuned = launch.Launch(2, 128, 2)
    path = tmp_path / "table.json"
    launch.write_table(path, {key: tuned}, "a GPU, 123")
    assert launch.find("gelu_forward", 0, x) == launch.TABLE[key]
    assert re.fullmatch(r"built-in \([0-9a-f]{12}\)", launch.describe())

    monkeypatch.setenv("PYGPT_LAUNCH_TABLE", str(path))
    monkeypatch.setattr(launch, "_tuned_from", None)  # as at the start of a process
    assert launch.find("gelu_forward", 0, x) == tuned
    assert launch.find("gelu_backward", 0, x).programs  # what is not in it stays built-in
    assert launch.describe() == f"{path} (a GPU, 123)"
    assert "1 entries from" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "", "entries": {"a": {}}}'])
def test_damaged_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"table.json is not a launch table.*python -m pygpt.tune"):
        launch.use_table(path)
