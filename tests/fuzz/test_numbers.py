"""One run, its figures everywhere: the metrics, the terminal, TensorBoard, the report, `eval`.

Small random configurations; PYGPT_TEST_SEED, printed with a failure, draws one again.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import pygpt
from pygpt import eval as eval_command
from pygpt.data import TokenDataset
from pygpt.evaluation.loss import Windows
from pygpt.reporting.build import as_fields, build
from pygpt.reporting.language import Language
from pygpt.reporting.readers import tensorboard
from pygpt.reporting.runlog import Facts, LogBuilder
from pygpt.runs.run import Run

TINY = "--preset shakespeare-char --device cpu --dtype float32 --no-compile --dropout 0".split()


def drawn(seed: int) -> dict[str, int]:
    random_of = random.Random(seed)
    block_size, sequences = random_of.choice((8, 16, 24)), random_of.choice((2, 4, 6))
    steps = random_of.randrange(4, 8)
    return {
        "n-layer": random_of.randrange(1, 3),
        "n-head": 2,
        "n-embd": random_of.choice((8, 16)),
        "block-size": block_size,
        "batch-tokens": block_size * sequences,
        "micro-batch": random_of.choice((1, 2)),
        "max-steps": steps,
        "warmup-steps": 1,
        "eval-interval": random_of.randrange(1, steps),
        "eval-tokens": block_size * random_of.randrange(3, 20),
        "checkpoint-interval": random_of.randrange(1, steps),
        "log-interval": 1,
        "seed": seed,
    }


def flags(values: dict[str, int]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def hand_count(run: Run, data: Path, values: dict[str, int], impl: str) -> tuple[float, int, int]:
    """Nats, targets and bytes of text, window by window, by a model that is loaded for it."""
    model, tokenizer = pygpt.load(run.path, impl=impl)
    dataset = TokenDataset(data, "val")
    block = values["block-size"]
    lengths = tokenizer.token_bytes()
    nats, tokens, n_bytes = 0.0, 0, 0
    for index in Windows.over(dataset, block, block, values["eval-tokens"]).indices:
        assert index is not None
        start = index * block
        ids = torch.from_numpy(dataset.window(start, min(block + 1, len(dataset) - start)))
        with torch.no_grad():
            logits = model.head(model.hidden(ids[None, :-1]))[0]
        nats += F.cross_entropy(logits.double(), ids[1:], reduction="sum").item()
        tokens += len(ids) - 1
        n_bytes += int(lengths[ids[1:].numpy()].sum())
    return nats, tokens, n_bytes


@pytest.fixture
def finished(
    run_train: Callable[..., Run], seed: int, capsys: pytest.CaptureFixture[str]
) -> tuple[Run, dict[str, int], str]:
    values = drawn(seed)
    run = run_train("a", *flags(values))
    return run, values, capsys.readouterr().out


def test_a_runs_figures_agree_everywhere(
    finished: tuple[Run, dict[str, int], str],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, values, printed = finished
    lines = run.read_metrics()
    config = run.config()

    # tokens, rate and MFU of each step
    printed_peak = re.search(r"MFU is the share of ([\d.]+) TFLOP/s", printed)
    assert printed_peak
    peak = 1e12 * float(printed_peak[1])  # measured by the run, printed with two or three digits
    model, _ = pygpt.load(run.path, impl="eager")
    assert [line["step"] for line in lines] == [*range(1, values["max-steps"] + 1)]
    for line in lines:
        assert line["tokens"] == line["step"] * values["batch-tokens"]
        rate = line["tokens_per_second"]
        assert line["mfu"] == pytest.approx(rate * model.config.flops_per_token() / peak, rel=0.06)

    # the last validation loss: by hand, by eval, in the report, on the terminal
    nats, tokens, n_bytes = hand_count(run, data, values, "eager")
    stored = lines[-1]["val_loss"]
    assert stored == pytest.approx(nats / tokens, rel=1e-5)
    command = ["eval", str(run.path), "--data", str(data), "--json"]
    monkeypatch.setattr(sys, "argv", [*command, "--tokens", str(values["eval-tokens"])])
    eval_command.main()
    (evaluated,) = figures_of(json.loads(capsys.readouterr().out))
    assert evaluated["loss"] == pytest.approx(stored, rel=1e-6)
    assert evaluated["perplexity"] == pytest.approx(math.exp(evaluated["loss"]), rel=1e-9)
    bits = nats / math.log(2) / n_bytes
    assert evaluated["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    found = re.findall(
        r"loss ([\d.]+) nats/token, perplexity ([\d.]+), ([\d.]+) bits/byte", printed
    )
    shown = tuple(map(float, found[-1]))
    assert shown == pytest.approx((stored, math.exp(stored), bits), abs=6e-3)
    reports = build((run.path,), Facts())
    (fields,) = as_fields(reports, Language("en"))["runs"]
    assert fields["loss"] == stored
    assert fields["tokens"] == lines[-1]["tokens"] == config.max_steps * config.batch_tokens
    assert fields["steps"] == values["max-steps"]

    # TensorBoard, read by the report's own reader
    pytest.importorskip("tensorboard", reason="waits for tensorboard")
    log = LogBuilder(run.path / "tensorboard", tensorboard.NAME)
    tensorboard.read(run.path / "tensorboard", log)
    board = log.build("board")
    assert board.train["loss"] == pytest.approx([line["train_loss"] for line in lines], rel=1e-6)
    validations = [line["val_loss"] for line in lines if "val_loss" in line]
    assert board.val["loss"] == pytest.approx(validations, rel=1e-6)


def figures_of(value: Any) -> list[dict[str, float]]:
    """Every object with a loss, at any depth."""
    if isinstance(value, dict):
        if "loss" in value and "perplexity" in value:
            return [value]
        return [found for each in value.values() for found in figures_of(each)]
    return (
        [found for each in value for found in figures_of(each)] if isinstance(value, list) else []
    )


def test_restarts_and_micro_batches_change_no_figure(
    finished: tuple[Run, dict[str, int], str], run_train: Callable[..., Run]
) -> None:
    run, values, _ = finished
    expected = [figures(line) for line in run.read_metrics()]

    other = 2 if values["micro-batch"] == 1 else 1
    whole = [
        figures(line)
        for line in run_train("b", *flags(values | {"micro-batch": other})).read_metrics()
    ]
    for line, before in zip(whole, expected, strict=True):
        # fp32 sums of a batch in another order: 1e-7 of a loss, more after steps of AdamW.
        assert line == pytest.approx(before, rel=1e-4)
        assert (line["step"], line["tokens"]) == (before["step"], before["tokens"])

    half = values | {"max-steps": values["max-steps"] - 2}
    cut = run_train("c", *flags(half), "--lr-decay-steps", str(values["max-steps"]))
    steps = ["--max-steps", str(values["max-steps"])]
    again = run_train("c", "--resume", *steps, "--lr-decay-steps", str(values["max-steps"]))
    resumed = [figures(line) for line in again.read_metrics()]
    assert cut.path == again.path
    assert [line["train_loss"] for line in resumed] == [line["train_loss"] for line in expected]
    assert resumed[-1] == expected[-1]


def figures(line: dict[str, Any]) -> dict[str, Any]:
    """What is not a time; val_loss of the last step of a shorter run comes in addition."""
    return {
        name: line[name]
        for name in ("step", "train_loss", "tokens", "lr", "grad_norm", "val_loss")
        if name in line
    }


def test_implementations_agree_on_a_split(
    finished: tuple[Run, dict[str, int], str], data: Path
) -> None:
    run, values, _ = finished
    eager, tokens, n_bytes = hand_count(run, data, values, "eager")
    chosen, *counts = hand_count(run, data, values, "auto")
    assert chosen == pytest.approx(eager, rel=1e-5)
    assert counts == [tokens, n_bytes]
