"""The sample command, and what all commands share: the newest run, prompts, help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError, sample
from pygpt.config import TrainConfig
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.tokenizers.base import get_tokenizer
from pygpt.training.optimizer import build_optimizer

INFO = get_tokenizer("bytes").info


def make_run(path: Path, fill: int) -> Run:
    """A run whose model always writes the byte `fill`."""
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=1, n_embd=8))
    with torch.no_grad():
        model.ln_f.weight.zero_()
        assert model.ln_f.bias is not None
        model.ln_f.bias.fill_(1.0)
        model.wte.weight[fill] = 10.0
    optimizer = build_optimizer(model, TrainConfig())
    run = Run(path)
    run.open(TrainConfig(), torch.device("cpu"), 0)
    checkpoint.save(run.checkpoints, model, optimizer, INFO, checkpoint.TrainerState(1, None))
    return run


def run_sample(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", *flags])
    sample.main()


def test_prompt_and_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", ord("x"))
    for place in (run.path, run.newest_checkpoint()):
        run_sample(monkeypatch, str(place), "--prompt", "né", "--max-new-tokens", "30")
        assert capsys.readouterr().out == "né" + "x" * 30 + "\n"


def test_stops_at_end_of_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", INFO.end_of_text)
    run_sample(monkeypatch, str(run.path), "--prompt", "a", "--num-samples", "2")
    assert capsys.readouterr().out == "--- 1 of 2\na\n\n--- 2 of 2\na\n"


def test_newest_run_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no run in .*runs; give the directory of one"):
        run_sample(monkeypatch)
    for name, letter, age in (("old", "o", 100), ("new", "n", 10), ("older", "r", 200)):
        run = make_run(tmp_path / "runs" / name, ord(letter))
        moment = run.metrics_file.stat().st_mtime - age
        os.utime(run.metrics_file, (moment, moment))
    run_sample(monkeypatch, "--max-new-tokens", "2")
    assert capsys.readouterr().out == "nn\n"


def test_seed_beyond_64_bits_is_refused() -> None:
    assert sample.SampleConfig(seed=2**64 - 1)
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match=f"seed must be in .* got {seed}"):
            sample.SampleConfig(seed=seed)


def test_text_that_stdout_has_no_letters_for_is_still_printed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ord("x"))
    line = [sys.executable, "-m", "pygpt.sample", str(run.path), "--max-new-tokens", "2"]
    done = subprocess.run(
        [*line, "--prompt", "né½".encode()],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stdout == b"n??xx\n"


def test_run_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    run.open(TrainConfig(), torch.device("cpu"), 0)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        run_sample(monkeypatch, str(run.path))


@pytest.mark.parametrize("command", ["train", "eval", "sample", "prepare"])
def test_help_explains_and_bad_input_leaves_with_status_two(command: str, tmp_path: Path) -> None:
    def start(*flags: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"pygpt.{command}", *flags]
        return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)

    shown = start("--help")
    assert shown.returncode == 0
    assert f"usage: python -m pygpt.{command}" in shown.stdout
    bad = {"train": ["--preset", "x"], "eval": ["x"], "sample": ["x"], "prepare": ["text", "x"]}
    refused = start(*bad[command])
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())
