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

# base_train of 2026, on one GPU whose peak nanochat does not know.
NANOCHAT = """2026-03-01 20:00:00,000 - nanochat.common - INFO - Distributed world size: 1
GPU: NVIDIA GeForce RTX 4070 | Peak FLOPS (BF16): inf
Vocab size: 8,192
Model config:
{
  "sequence_len": 512,
  "vocab_size": 8192,
  "n_layer": 16,
  "n_head": 16,
  "n_kv_head": 16,
  "n_embd": 1024,
  "window_pattern": "L"
}
Parameter counts:
wte                     : 8,388,608
lm_head                 : 8,388,608
total                   : 285,214,240
Total number of training tokens: 3,276,800,000
Tokens / micro-batch / rank: 8 x 512 = 4,096
Total batch size 16,384 => gradient accumulation steps: 4
Step 00000 | Validation bpb: 3.2000
step 00000/20000 (0.00%) | loss: 9.012000 | lrm: 0.00 | dt: 1436.00ms | tok/sec: 11,405 | \
bf16_mfu: 0.00 | epoch: 1 pq: 0 rg: 1 | total time: 0.00m
step 00020/20000 (0.10%) | loss: 8.700000 | lrm: 0.01 | dt: 1343.00ms | tok/sec: 12,196 | \
bf16_mfu: 41.50 | epoch: 1 pq: 0 rg: 3 | total time: 0.89m | eta: 4451.6m
""".replace("\\\n", "")

# Of 2025: the program, then a step's time, and the validation loss alone.
MODDED = (
    'print0(f"step:{step}/{train_steps} val_loss:{val_loss:.4f} train_time:…")\n'
    + "=" * 100
    + "\nRunning Python 3.10.12\nstep:0/1695 val_loss:10.8258 train_time:0ms step_avg:0.03ms\n"
    "step:1/1695 train_time:524ms step_avg:524.12ms\n"
    "step:20/1695 train_time:2218ms step_avg:110.90ms\n"
    "step:20/1695 val_loss:9.1000 train_time:2220ms step_avg:111.00ms\n"
    "peak memory allocated: 29000 MiB reserved: 46000 MiB\n"
)

# Two micro-batches a step; the logger's own count stands in the column "step".
LITGPT = (
    "loss,iter,step,epoch,iter_time,remaining_time,tokens,total_tokens,learning_rate,val_loss,"
    "val_ppl\n11.0,2,1,0,0.11,900.0,8192,16384,0.0001,,\n"
    "9.0,20,19,0,0.10,800.0,81920,163840,0.0004,,\n,,19,,,,,,,9.2,9897.1\n"
)

LOGS = {
    "out.txt": ("nanoGPT stdout", NANOGPT),
    "main.log": (
        "llm.c main.log",
        "s:0 tel:11.0\ns:0 trl:11.0 lr:0.000001 norm:15.37\ns:20 trl:9.5 lr:0.000017 norm:2\n"
        "s:20 tel:9.6\ns:20 eval:0.2500\n",
    ),
    "base_train.log": ("nanochat stdout", NANOCHAT),
    "modded.txt": ("modded-nanogpt log", MODDED),
    "modded-2024.txt": (
        "modded-nanogpt log",
        "step:0/5100 val_loss:10.8258 train_time:0ms step_avg:nanms\n"
        "step:1/5100 train_loss:10.8300 train_time:100ms step_avg:nanms\n"
        "step:20/5100 train_loss:9.1200 train_time:2000ms step_avg:100.00ms\n",
    ),
    "metrics.csv": ("litgpt CSV", LITGPT),
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
    assert name == "modded.txt" or log.train.step[-1] == 20
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


def test_a_step_of_litgpt_is_a_micro_batch(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(LITGPT, encoding="utf-8")
    log = read_log(path)
    assert log.train.step.tolist() == [2, 20]
    assert log.train["tokens"].tolist() == [16384, 163840]
    assert log.train["lr"].tolist() == [1e-4, 4e-4]
    assert (log.val.step.tolist(), log.val["loss"].tolist()) == ([20], [9.2])
    assert log.tokens == 163840


def test_nanochats_facts(tmp_path: Path) -> None:
    path = tmp_path / "base_train.log"
    path.write_text(NANOCHAT, encoding="utf-8")
    log = read_log(path)
    assert log.facts.known() == {
        "n_layer": 16, "n_head": 16, "n_embd": 1024, "block_size": 512, "vocab_size": 8192,
        "batch_tokens": 16384, "max_steps": 20000, "n_params": 285_214_240, "card": "RTX 4070",
    }  # fmt: skip
    assert log.val_bits_per_byte == {0: 3.2}
    assert log.train["tokens_per_second"].tolist() == [11405, 12196]
    mfu = log.train["mfu"]
    assert np.isnan(mfu[0])  # 0.00: unknown
    assert mfu[1] == pytest.approx(0.415)
    path.write_text(NANOCHAT.replace("size: 1\n", "size: 8\n"), encoding="utf-8")
    assert read_log(path).facts.card is None  # its rates are of all GPUs together


def test_modded_nanogpts_steps_without_a_loss_are_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("# a long program\n" * 3500 + MODDED, encoding="utf-8")
    log = read_log(path)
    assert (log.format, log.facts.max_steps) == ("modded-nanogpt log", 1695)
    assert log.val["loss"].tolist() == [10.8258, 9.1]
    assert not len(log.train)


def test_hugging_faces_trainer_itself(tmp_path: Path) -> None:
    """The state that transformers' Trainer writes into a checkpoint."""
    pytest.importorskip("accelerate", reason="waits for accelerate, which the Trainer needs")
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=1
    )
    ids = torch.randint(50, (64, 8))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, logging_steps=2, eval_strategy="steps", eval_steps=3,
        save_steps=6, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        transformers.GPT2LMHeadModel(config), arguments, train_dataset=rows, eval_dataset=rows[:8]
    )
    trainer.train()
    log = read_log(tmp_path)
    assert log.format == "Hugging Face trainer_state.json"
    assert (log.train.step.tolist(), log.val.step.tolist()) == ([2, 4, 6], [3, 6])
    assert log.train.has("lr")
    assert log.train.has("grad_norm")
    assert (log.facts.max_steps, log.facts.n_embd, log.facts.block_size) == (6, 8, 8)
    history = trainer.state.log_history
    assert log.val["loss"].tolist() == [r["eval_loss"] for r in history if "eval_loss" in r]


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
