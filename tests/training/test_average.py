"""The average of the weights, and sequences that grow."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pygpt import eval as eval_command
from pygpt.config import GPTConfig, TrainConfig
from pygpt.hub import huggingface
from pygpt.hub.stored import read_tensors
from pygpt.model import GPT
from pygpt.planning.memory import Plan
from pygpt.runs.models import locate
from pygpt.runs.run import Run
from pygpt.training.average import WeightAverage
from pygpt.training.schedule import sequence_length
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 32 --dropout 0.1
    --batch-tokens 256 --micro-batch 4 --max-steps 8 --warmup-steps 2 --lr-decay-steps 8
    --eval-interval 4 --eval-tokens 256 --checkpoint-interval 4 --device cpu --dtype float32
    --track= --compile False
""".split()


def tensors(run: Run, name: str) -> dict[str, torch.Tensor]:
    newest = run.newest_checkpoint()
    assert newest
    return read_tensors(newest / name)


def test_the_average_is_the_textbook_one(seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(8, 64, n_layer=1, n_head=1, n_embd=8), "eager")
    average = WeightAverage(model, 0.5)
    expected = model.wte.weight.detach().double()
    for step in range(1, 13):
        with torch.no_grad():
            model.wte.weight.normal_()
        average.update(model, step)
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * model.wte.weight.detach().double()
    # One rounding a step, each of which later steps halve.
    error = (average.model.wte.weight - expected).abs().max()
    assert error <= 4 * torch.finfo(torch.float32).eps * expected.abs().max()


def test_a_run_with_an_average_is_the_same_run_and_resumes(
    run_train: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run_train("plain")
    whole = run_train("whole", "--ema-decay", "0.9")
    run_train("parts", "--ema-decay", "0.9", "--max-steps", "4")
    parts = run_train("parts", "--resume", "--max-steps", "8")
    runs = (plain, whole, parts)
    losses = [[line["train_loss"] for line in run.read_metrics()] for run in runs]
    assert losses[0] == losses[1] == losses[2]
    a, b = (tensors(run, "average/model.safetensors") for run in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = tensors(whole, "model.safetensors")
    assert not torch.equal(a["wte.weight"], weights["wte.weight"])
    directory = locate(whole.path, average=True)
    assert huggingface.load(directory)
    assert Run.of_checkpoint(directory).path == whole.path
    with pytest.raises(InputError, match="has no averaged weights; .*--ema-decay"):
        locate(plain.path, average=True)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["eval", str(whole.path), "--average"])
    eval_command.main()
    assert "average on " in capsys.readouterr().out


def test_memory_model_counts_it() -> None:
    config = TrainConfig(n_layer=2, n_head=2, n_embd=64, block_size=64, batch_tokens=256)
    plans = [
        Plan.of(dataclasses.replace(config, ema_decay=decay), 320, "cpu", torch.float32, "eager")
        for decay in (0.0, 0.9)
    ]
    without, kept = (plan.estimate(1).state for plan in plans)
    assert kept - without == 4 * plans[0].model.n_params()


def test_sequences_grow_to_the_block_size() -> None:
    config = TrainConfig(block_size=64, block_warmup_steps=9, batch_tokens=640)
    lengths = [sequence_length(step, config) for step in range(11)]
    assert lengths == [8] * 3 + [16] * 3 + [32] * 3 + [64] * 2
    assert sequence_length(0, TrainConfig()) == 1024


def test_short_sequences_are_the_same_windows_cut(
    run_train: Callable[..., Run], data: Path
) -> None:
    short = run_train("short", "--block-warmup-steps", "3", "--dropout", "0")
    # Steps 0, 1 and 2 cut windows of 32 into 4, 8 and 16 tokens.
    plain = run_train("plain", "--dropout", "0")
    a, b = ([line["train_loss"] for line in run.read_metrics()] for run in (short, plain))
    assert a[0] != b[0]
    assert [line["tokens"] for line in short.read_metrics()] == [256 * n for n in range(1, 9)]
    run_train("halves", "--block-warmup-steps", "3", "--dropout", "0", "--max-steps", "4")
    halves = run_train("halves", "--resume", "--dropout", "0", "--max-steps", "8")
    assert [line["train_loss"] for line in halves.read_metrics()] == a
    with pytest.raises(InputError, match="block_size=36 is not a multiple of 8; .*32 or 40"):
        run_train("odd", "--block-size", "36", "--batch-tokens", "288", "--block-warmup-steps", "3")
