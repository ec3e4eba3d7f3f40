"""A run's directory: held by one process, and clear about what is wrong with it."""

import fcntl
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from pygpt.config import TrainConfig
from pygpt.runs.run import Run
from pygpt.utils.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.open(TrainConfig(), CPU, 0)
    return run


def test_a_run_is_held_by_one_process_until_it_ends(run: Run) -> None:
    hold = f"""
import pathlib, sys, pygpt.runs.run
with pygpt.runs.run.Run(pathlib.Path({str(run.path)!r})).claimed():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="another process is training in"),
            run.claimed(),
        ):
            pass
        process.kill()
    with run.claimed():
        pass
    with run.claimed():  # and is let go at the end
        pass


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        run = Run(path)
        assert not run.started
        with pytest.raises(InputError, match=f"{path} can't be written .*another --out"):  # noqa: SIM117
            with run.claimed():
                pass


def test_a_full_disk_is_named_and_leaves_what_can_be_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.append_metrics({"step": 1})
    whole = run.metrics_file
    run.metrics_file = Path("/dev/full")
    with pytest.raises(InputError, match="No space left on device.*go on with --resume"):
        run.append_metrics({"step": 2})
    run.metrics_file = whole
    assert run.read_metrics() == [{"step": 1}]


def test_a_cut_line_of_metrics_is_done_again_and_a_damaged_one_named(run: Run) -> None:
    run.metrics_file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in run.read_metrics()] == [1, 2]
    for garbage in (b"{", b"[]", b"{}", b"\xff\0"):
        run.metrics_file.write_bytes(b'{"step": 1}\n' + garbage + b'\n{"step": 3}\n')
        with pytest.raises(InputError, match="metrics.jsonl is damaged in line 2 .*delete that"):
            run.open(TrainConfig(), CPU, 3)


def test_an_unmounted_run_is_not_continued_elsewhere(run: Run, tmp_path: Path) -> None:
    run.append_metrics({"step": 1})
    run.path.rename(tmp_path / "unmounted")
    with pytest.raises(InputError, match=r"checkpoints is not there any more\. Fix that"):
        run.append_metrics({"step": 2})
    with pytest.raises(InputError, match=r"can't be written .*No such file"):
        run.open(TrainConfig(), CPU, 1)
    assert not run.path.exists()


def test_the_next_start_removes_what_a_killed_one_left(run: Run) -> None:
    for name in ("config.toml", "run.json", "metrics.jsonl", "report.html", "checkpoints/step-1"):
        path = run.path / name
        path.with_name(f".partial-{path.name}-12345678").touch()
    run.open(TrainConfig(), CPU, 0)
    left = [path.name for path in run.path.rglob(".partial-*")]
    assert left == [".partial-report.html-12345678"]  # of another command, which may be running


def test_damaged_list_of_starts_is_named(run: Run) -> None:
    for garbage in (b"[{", b"3", b"\xff"):
        (run.path / "run.json").write_bytes(garbage)
        with pytest.raises(InputError, match="run.json is damaged .*delete or move it"):
            run.open(TrainConfig(), CPU, 0)


def test_every_start_is_recorded(run: Run) -> None:
    run.open(TrainConfig(), CPU, 5)
    starts = json.loads((run.path / "run.json").read_text())
    assert [start["step"] for start in starts] == [0, 5]


def test_a_stray_folder_is_no_checkpoint(run: Run) -> None:
    for name in ("step-foo", "step-00000003", "step-00000003-old"):
        (run.checkpoints / name).mkdir()
    newest = run.newest_checkpoint()
    assert newest
    assert newest.name == "step-00000003"


def test_a_look_at_the_lock_does_not_refuse_a_start(tmp_path: Path) -> None:
    """`python -m pygpt.runs` takes the lock for a moment."""
    run = Run(tmp_path)
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        release = threading.Timer(0.02, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        with run.claimed():
            release.join()
