"""Two ranks as a user starts them: killed, stopped, hanging, and what is refused."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pygpt.runs.run import Run
from pygpt.training.launch import Launch
from pygpt.training.ranks import joined
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 32 --dropout 0
    --batch-tokens 256 --micro-batch 4 --max-steps 160 --warmup-steps 2 --lr-decay-steps 160
    --eval-interval 80 --eval-tokens 256 --checkpoint-interval 20 --device cpu --dtype float32
    --learning-rate 1e-3 --min-lr 1e-4
""".split()
ENDLESS = ["--max-steps", "1000000"]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts two ranks; ends those that are left."""
    started = []

    def start(out: Path, *flags: str, torchrun: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += [*torchrun, "-m", "pygpt.train", *TINY, "--data", str(data), "--out", str(out)]
        process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in ranks_of(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def ranks_of(torchrun: "subprocess.Popen[str]") -> list[int]:
    """Process ids of the ranks, by rank."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
    found = {}
    for pid in map(int, children.read_text().split()) if children.exists() else ():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends just now
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            variables = dict(part.split(b"=", 1) for part in environment if b"=" in part)
            if b"RANK" in variables:
                found[int(variables[b"RANK"])] = pid
    return [found[rank] for rank in sorted(found)]


def wait_for_steps(run: Run, steps: int, process: "subprocess.Popen[str]") -> None:
    while not run.metrics_file.exists() or len(run.read_metrics()) < steps:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def test_a_killed_rank_is_restarted_from_the_newest_checkpoint(
    start: Start, tmp_path: Path, run_train: Callable[..., Run]
) -> None:
    run = Run(tmp_path / "killed")
    process = start(run.path, "--parallel", "fsdp", torchrun=("--max-restarts", "1"))
    while run.newest_checkpoint() is None:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert f"restart 1 goes on with {run.path}" in output
    assert [line["step"] for line in run.read_metrics()] == list(range(1, 161))
    # Sums in another order: two ranks may differ from a process as two micro-batches do.
    whole, other = (run_train(f"whole-{n}", "--micro-batch", str(n)) for n in (4, 8))
    ours, expected, others = (
        [line["train_loss"] for line in each.read_metrics()] for each in (run, whole, other)
    )
    spread = max(abs(a - b) for a, b in zip(expected, others, strict=True))
    assert max(abs(a - b) for a, b in zip(ours, expected, strict=True)) <= 8 * spread
    # What two ranks saved, one process goes on with.
    one = run_train("killed", "--resume", "--max-steps", "162")
    assert [line["step"] for line in one.read_metrics()][-2:] == [161, 162]


def test_a_signal_to_one_rank_stops_and_saves_all(start: Start, tmp_path: Path) -> None:
    run = Run(tmp_path / "stopped")
    process = start(run.path, *ENDLESS)
    wait_for_steps(run, 3, process)
    os.kill(ranks_of(process)[1], signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    step = run.read_metrics()[-1]["step"]
    assert f"stopped at step {step}; go on with: python -m pygpt.train --resume" in output
    newest = run.newest_checkpoint()
    assert newest
    assert newest.name == f"step-{step:08d}"


def test_ranks_save_and_stop_when_torchrun_is_killed(start: Start, tmp_path: Path) -> None:
    run = Run(tmp_path / "orphans")
    process = start(run.path, *ENDLESS)
    wait_for_steps(run, 3, process)
    ranks = ranks_of(process)
    process.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        time.sleep(0.05)  # else the test's time-out ends it
    newest = run.newest_checkpoint()
    assert newest
    assert newest.name == f"step-{run.read_metrics()[-1]['step']:08d}"
    with run.claimed():
        pass


def test_a_rank_that_hangs_is_named(start: Start, tmp_path: Path) -> None:
    run = Run(tmp_path / "hangs")
    process = start(run.path, *ENDLESS, "--rank-timeout", "3")
    wait_for_steps(run, 3, process)
    stopped = ranks_of(process)[1]
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    assert process.stdout
    for line in process.stdout:
        if "lost each other" in line:
            break
    os.kill(stopped, signal.SIGKILL)
    assert re.search(r"wait 3 s for one another, see --rank-timeout. Missing: rank 1\.", line)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set and RANK, LOCAL_RANK, MASTER_ADDR"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is not a number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a",
             "MASTER_PORT": "1"},
            "RANK=2 is not below WORLD_SIZE=2",
        ),
    ],
)  # fmt: skip
def test_an_environment_without_torchrun_is_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Launch.of(environment)


def test_one_process_is_one_process() -> None:
    assert Launch.of({}) == Launch.of({"WORLD_SIZE": "1"}) == Launch()


def test_each_rank_takes_a_gpu_of_its_own() -> None:
    launch = Launch(rank=5, local_rank=1, world_size=8, local_world_size=4)
    assert launch.device_name("auto", 4) == launch.device_name("cuda", 8) == "cuda:1"
    assert (launch.device_name("auto", 0), launch.device_name("cpu", 4)) == ("auto", "cpu")
    with pytest.raises(InputError, match="4 processes .* share 1 GPUs; .*--nproc-per-node 1"):
        launch.device_name("auto", 1)
    with pytest.raises(InputError, match="--device cuda:1 is one device for 8 processes"):
        launch.device_name("cuda:1", 4)
    assert Launch().device_name("cuda:1", 4) == "cuda:1"


def test_a_build_without_nccl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    with (
        pytest.raises(InputError, match="has no NCCL"),
        joined(Launch(world_size=2), torch.device("cuda"), 1),
    ):
        pass


def test_a_rank_that_does_not_come_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(nobody.getsockname()[1]))
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(InputError, match=r"the ranks did not find each other .*by the same"),
            joined(Launch(rank=1, world_size=2), torch.device("cpu"), 1),
        ):
            pass


def test_other_ranks_report_with_their_number_after_rank_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("pygpt.training.launch.time.sleep", waited.append)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    launch = Launch(rank=1, world_size=2)
    with pytest.raises(InputError, match=r"^rank 1: no such data$"), launch.reporting():
        raise InputError("no such data")
    assert waited == [2.0]
    with pytest.raises(SystemExit), launch.reading_flags():
        sys.exit(print("usage"))
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match=r"^no such data$"), Launch().reporting():
        raise InputError("no such data")
    assert waited == [2.0, 2.0]
