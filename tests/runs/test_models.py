"""What a user can name as a model, and what loading it gives."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt.config import TrainConfig
from pygpt.runs import checkpoint
from pygpt.runs.models import load, locate
from pygpt.runs.run import Run
from pygpt.tokenizers.base import get_tokenizer
from pygpt.training.optimizer import build_optimizer

INFO = get_tokenizer("bytes").info


@pytest.fixture
def run(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    torch.manual_seed(seed)
    monkeypatch.chdir(tmp_path)
    run = Run(Path("runs/mine"))
    run.open(TrainConfig(), torch.device("cpu"), 0)
    for step in (1, 2):
        model = GPT(GPTConfig(16, 320, n_layer=1, n_head=1, n_embd=8, dropout=0.1))
        optimizer = build_optimizer(model, TrainConfig())
        state = checkpoint.TrainerState(step, None)
        checkpoint.save(run.checkpoints, model, optimizer, INFO, state)
    return run


def test_names_lead_to_the_newest_checkpoint_or_the_directory(run: Run) -> None:
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == "step-00000002"
    shutil.copytree(newest, "elsewhere/hf")
    assert locate(None) == locate("runs/mine") == locate(run.path) == newest
    assert locate(newest) == newest
    assert locate("elsewhere/hf") == Path("elsewhere/hf")
    with pytest.raises(InputError, match="no model 'runs/other'"):
        locate("runs/other")


@pytest.mark.parametrize("as_path", [True, False])
def test_load_gives_a_model_ready_to_use_and_its_tokenizer(run: Run, as_path: bool) -> None:
    name: str | os.PathLike[str] = run.path if as_path else str(run.path)
    model, tokenizer = load(name)
    assert not model.training
    assert tokenizer.decode(tokenizer.encode("naïve")) == "naïve"
    ids = torch.tensor([tokenizer.encode("abc")])
    again = GPT.from_pretrained(name)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(model(ids)[0], again(ids)[0])


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.open(TrainConfig(), torch.device("cpu"), 0)
    with pytest.raises(InputError, match="has no checkpoint yet; .*train --resume"):
        load(run.path)
