"""train --init-from: the first loss of a run is that of the model it starts from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError, load
from pygpt.config import TrainConfig
from pygpt.hub.export import export
from pygpt.runs.run import Run
from pygpt.runs.starting import adopt_shape, copy_weights
from pygpt.tokenizers.base import get_tokenizer

TINY = ("--preset stdlib-cpu --device cpu --dtype float32 --batch-tokens 128 --max-steps 2 "
        "--eval-tokens 256 --block-size 16 --warmup-steps 0 --impl eager").split()  # fmt: skip


@pytest.fixture
def source(tmp_path: Path, seed: int) -> tuple[Path, GPT]:
    torch.manual_seed(seed)
    tokenizer = get_tokenizer("bytes")
    model = GPT(GPTConfig(32, 257, n_layer=3, n_head=2, n_embd=16, bias=False), "eager").eval()
    export(model, tokenizer, tmp_path / "source", format="hf", dtype="float32", card="")
    return tmp_path / "source", model


def test_a_run_starts_from_a_model(
    source: tuple[Path, GPT], run_train: Callable[..., Run], tmp_path: Path
) -> None:
    path, model = source
    run = run_train("run", "--init-from", str(path), "--learning-rate", "1e-9", "--min-lr", "0")
    config = run.config()
    assert (config.n_layer, config.n_head, config.n_embd, config.bias) == (3, 2, 16, False)
    assert config.block_size == 16
    trained, _ = load(run.path)
    for name, tensor in trained.state_dict().items():
        expected = model.state_dict()[name][: len(tensor)]
        # Two steps at a rate of 1e-9 move no weight by more than 2e-9.
        assert torch.allclose(tensor[: len(expected)], expected, atol=1e-8), name
    padding = trained.wte.weight[257:]
    assert torch.allclose(padding, model.wte.weight.mean(0).expand_as(padding), atol=1e-6)
    resumed = run_train("run", "--resume", "--max-steps", "3")
    assert len(resumed.read_metrics()) == 3


def test_what_does_not_fit_is_refused(source: tuple[Path, GPT]) -> None:
    path, _ = source
    config = TrainConfig(init_from=str(path))
    assert adopt_shape(config).block_size == 32
    assert adopt_shape(dataclasses.replace(config, block_size=8)).block_size == 8
    assert adopt_shape(TrainConfig()) == TrainConfig()
    model = GPT(adopt_shape(config).model(50304), "eager")
    with pytest.raises(InputError, match="has the tokenizer 'bytes', and the dataset holds ids of"):
        copy_weights(model, str(path), get_tokenizer("gpt2").info)
    with pytest.raises(InputError, match="no model 'gpt3'"):
        adopt_shape(TrainConfig(init_from="gpt3"))
    for name, message in (("resume", "here it is --resume"), ("scratch", "leave it out")):
        with pytest.raises(InputError, match=message):
            adopt_shape(TrainConfig(init_from=name))
