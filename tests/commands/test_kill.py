"""A run killed at any moment can be resumed, and ends as if it had never been killed."""

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pygpt import train
from pygpt.data import writer
from pygpt.data.corpora.text import TextFiles
from pygpt.hub import huggingface
from pygpt.runs.checkpoint import list_checkpoints
from pygpt.runs.run import Run
from pygpt.training import trainer

KILLS = 20
STEPS = 200
FLAGS = f"""
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --dropout 0.1
    --batch-tokens 64 --micro-batch 4 --max-steps {STEPS} --lr-decay-steps {STEPS}
    --warmup-steps 2 --eval-interval 7 --eval-tokens 64 --checkpoint-interval 3 --device cpu
    --dtype float32
""".split()


def run_command(args: Sequence[str], log: Path) -> None:
    """The command, in a child process."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train", *args]
    train.main()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 22 processes, one after another: fifteen seconds on a quiet core
def test_killed_at_random_moments(tmp_path: Path, seed: int) -> None:
    data = tmp_path / "data"
    writer.prepare(TextFiles((Path(trainer.__file__),)), data, "bytes")
    # Children of a server that has imported everything start in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pygpt.train", "pygpt.training.session", "torch.utils.tensorboard"]
    )
    moments = random.Random(seed)
    log = tmp_path / "log"

    def start(out: str) -> multiprocessing.process.BaseProcess:
        args = [*FLAGS, "--data", str(data), "--out", str(tmp_path / out)]
        if Run(tmp_path / out).started:  # else it was killed before it wrote anything
            args.append("--resume")
        child = context.Process(target=run_command, args=(args, log))
        child.start()
        return child

    def finish(out: str) -> Run:
        child = start(out)
        child.join()
        assert child.exitcode == 0, log.read_text()
        return Run(tmp_path / out)

    began = time.perf_counter()
    whole = finish("whole")
    seconds = time.perf_counter() - began
    survived = 0
    for _ in range(KILLS):
        child = start("killed")
        child.join(moments.uniform(0, seconds / 4))
        survived += child.exitcode is not None
        child.kill()
        child.join()
        if child.exitcode == 0:  # it came to its end: the next one starts over
            (tmp_path / "killed").rename(tmp_path / f"ended-{time.monotonic_ns()}")
    assert survived < KILLS, "no kill hit a running process"
    killed = finish("killed")
    assert [line["step"] for line in killed.read_metrics()] == list(range(1, STEPS + 1))
    for a, b in zip(whole.read_metrics(), killed.read_metrics(), strict=True):
        assert a["train_loss"] == b["train_loss"], a["step"]
        assert a.get("val_loss") == b.get("val_loss"), a["step"]
    last = [list_checkpoints(run.checkpoints)[-1] / "model.safetensors" for run in (whole, killed)]
    assert last[0].read_bytes() == last[1].read_bytes()
    assert huggingface.load(last[0].parent)
