"""Invalid input of a benchmark is one line, with status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("roofline.py --card foo", "no data sheet of a GPU 'foo'"),
        ("bench_step.py --preset foo", "no preset 'foo'; there are chat, fineweb-40m"),
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
