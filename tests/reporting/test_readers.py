"""Readers: each format, and logs as people have them: cut, mixed, repeated, odd encodings, huge."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pygpt.reporting.readers import read_log
from pygpt.reporting.runlog import ROWS, Recorder
from pygpt.utils.errors import InputError

NANOGPT = """Overriding: n_layer = 4
Overriding: batch_size = 12
Overriding: block_size = 64
number of parameters: 0.80M
step 0: train loss 4.1676, val loss 4.1648
iter 0: loss 4.1861, time 9853.22ms, mfu -100.00%
iter 10: loss 3.9000, time 100.00ms, mfu 11.50%
step 20: train loss 3.5000, val loss 3.6000
iter 20: loss 3.4500, time 101.00ms, mfu 11.60%
"""

LOGS = {
    "out.txt": ("nanoGPT stdout", NANOGPT),
    "main.log": (
        "llm.c main.log",
        "s:0 tel:11.0\ns:0 trl:11.0 lr:0.000001 norm:15.37\ns:20 trl:9.5 lr:0.000017 norm:2\n"
        "s:20 tel:9.6\ns:20 eval:0.2500\n",
    ),
    "base_train.log": (
        "nanochat stdout",
        "Vocab size: 65,536\nstep 00000/21400 (0.00%) | loss: 11.090354 | grad norm: 0.3 | lrm: 1.0"
        " | dt: 1200.50ms | tok/sec: 436,000 | mfu: 48.10 | total time: 0.0m\n"
        "Step 00000 | Validation bpb: 3.3000\n"
        "step 00020/21400 (0.09%) | loss: 9.1 | grad norm: 0.3 | lrm: 1.0 | dt: 1100.50ms"
        " | tok/sec: 436,000 | mfu: 48.10 | total time: 0.1m\n",
    ),
    "modded.txt": (
        "modded-nanogpt log",
        "step:0/1750 val_loss:10.8258 train_time:0ms step_avg:0.03ms\n"
        "step:1/1750 train_loss:10.8 train_time:100ms step_avg:100.00ms\n"
        "step:20/1750 val_loss:9.1 train_time:2000ms step_avg:100.00ms\n",
    ),
    "metrics.csv": (
        "litgpt CSV",
        "epoch,iter,iter_time,learning_rate,loss,step,total_tokens,val_loss\n"
        "0,1,0.1,0.001,11.0,0,1000,\n0,2,0.1,0.001,10.0,0,2000,\n0,3,0.1,0.001,9.0,20,3000,\n"
        "0,3,,,,20,,9.2\n",
    ),
    "trainer_state.json": (
        "Hugging Face trainer_state.json",
        json.dumps(
            {
                "max_steps": 100,
                "log_history": [
                    {"loss": 10.5, "step": 0, "learning_rate": 1e-4, "grad_norm": 1.0},
                    {"eval_loss": 9.5, "step": 20},
                    {"loss": 9.4, "step": 20},
                ],
            }
        ),
    ),
    "table.tsv": ("CSV or JSONL", "Step\tLoss\tval_loss\n0\t11\t\n20\t9\t9.1\n"),
    "table.md": ("CSV or JSONL", "| step | train | val |\n| --- | --- | --- |\n| 0 | 11 | 11 |\n"
                 "| 20 | 9 | 9.1 |\n"),
    "wandb.jsonl": (
        "CSV or JSONL",
        '{"_step": 0, "train/loss": 11}\n{"_step": 20, "train/loss": 9, "val/loss": 9.1}\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_each_format_is_known(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    expected, text = LOGS[name]
    path.write_text(text, encoding="utf-8")
    log = read_log(path)
    assert log.format == expected
    assert log.train.step[-1] == 20 or name == "modded.txt"
    assert log.last_step == 20
    assert not log.skipped
    assert not log.restarts


def test_nanogpts_configuration_is_in_its_log(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text(NANOGPT, encoding="utf-8")
    log = read_log(path)
    assert log.facts.known() == {
        "n_layer": 4, "block_size": 64, "batch_tokens": 768, "micro_batch": 12, "n_params": 800_000,
    }  # fmt: skip
    assert log.val["loss"].tolist() == [4.1648, 3.6]
    assert np.nanmax(log.train["mfu"]) == pytest.approx(0.116)  # -100 % is left out


def test_a_micro_batch_of_litgpt_has_a_row_and_a_step_their_mean(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(LOGS["metrics.csv"][1], encoding="utf-8")
    assert read_log(path).train["loss"].tolist() == [10.5, 9.0]


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="waits for tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for step in range(30):
            writer.add_scalar("train/loss", 11 - step / 10, step)
    log = read_log(tmp_path)
    assert log.train.step.tolist() == list(range(30))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_windows(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text(NANOGPT, encoding=encoding)
    assert read_log(path).last_step == 20


def test_a_last_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text(NANOGPT + "iter 30: loss 3.", encoding="utf-8")
    log = read_log(path)
    assert (log.last_step, log.skipped) == (20, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("hello world\n", "no format that is known"),
        ("step,accuracy\n1,2\n", "no column of the loss; its columns are accuracy, step"),
        ("step,loss\n", "a header and no rows"),
        ("loss,lr\n1,2\n", "no column of the step; its columns are loss, lr"),
        ("step,loss\n1,nan\n2,inf\n", "losses are all NaN or infinite"),
        ("step,loss\n" + "1,3.0\n2,3.0\n" * 60, "the steps go back 59 times"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_log(path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(b"PK\0\0" * 100)
    with pytest.raises(InputError, match="not a text file"):
        read_log(path)


def test_a_step_that_comes_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,3.0\n2,2.9\n2,2.8\n3,2.7\n", encoding="utf-8")
    log = read_log(path)
    assert log.train["loss"].tolist() == [3.0, 2.8, 2.7]
    assert (log.duplicates, log.restarts) == (1, [])


def test_memory_is_bounded_and_peaks_stay() -> None:
    recorder = Recorder(rows=256)
    for step in range(10_000):
        recorder.add(step, {"loss": 9.0 if step == 5_000 else 3.0})
    table = recorder.table()
    assert len(table) <= 256
    assert table["peak"].max() == 9.0
    assert table.step[-1] == 9_999
    assert (np.diff(table.step) > 0).all()
    # Every row is the mean of as many records: the mean of all is kept.
    assert table["loss"][:-1].mean() == pytest.approx(3.0 + 6 / 10_000, abs=1e-3)


def test_a_long_log_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    lines = ROWS + ROWS // 4
    with path.open("w", encoding="utf-8") as file:
        for step in range(lines):
            file.write(f"iter {step}: loss 3.1234, time 100.00ms, mfu 11.50%\n")
    tracemalloc.start()
    log = read_log(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert log.last_step == lines - 1
    # 9 columns of 8 bytes a row, twice while rows are merged, and lists of Python's floats then.
    assert peak < 100 * ROWS * 8
