"""Inputs of the same kinds as those that real users had trouble with, found by looking for more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pygpt import GPT
from pygpt.config import TrainConfig, toml_file
from pygpt.data import TokenDataset
from pygpt.data.split_names import shards_named
from pygpt.hub import layout
from pygpt.report import ReportConfig
from pygpt.runs import checkpoint
from pygpt.runs.models import locate
from pygpt.training.optimizer import build_optimizer
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import build, parse, read_object
from tests.fuzz.targets import BYTES, SHAPE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_shards_of_the_hub_are_told_by_whole_words() -> None:
    """Names matched by substring: "constraints" has "train", "medieval" has "val"."""
    names = ["constraints_val_000.bin", "medieval_train_000.bin", "edu_train_001.npy"]
    assert shards_named(names, "train") == ["medieval_train_000.bin", "edu_train_001.npy"]
    assert shards_named(names, "val") == ["constraints_val_000.bin"]


def test_every_item_of_a_list_is_checked(tmp_path: Path) -> None:
    """A check of one item taken for all."""
    (tmp_path / "a.toml").write_text('data = ["data/a", 3]\n')
    with pytest.raises(InputError, match="data = .* item 1 of list is not an instance of str"):
        toml_file.read(tmp_path / "a.toml")


def test_a_moment_that_is_nan_is_named(tmp_path: Path) -> None:
    """NaN in a weight: the optimizer's state too."""
    model = GPT(SHAPE, "eager")
    optimizer = build_optimizer(model, TrainConfig())
    model(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))[1].backward()
    optimizer.step()
    state = checkpoint.TrainerState(1, None)
    path = checkpoint.save(tmp_path, model, optimizer, BYTES.info, state)
    file = path / "optimizer.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["wte.weight/exp_avg"][0, 1] = torch.nan
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(InputError, match="wte.weight/exp_avg has 1 values of .* NaN"):
        checkpoint.load_training(path, model, optimizer, BYTES.info)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_configurations_in_utf16_are_named(tmp_path: Path, encoding: str) -> None:
    """Encodings that people have: PowerShell's `>` writes UTF-16."""
    (tmp_path / "a.toml").write_text("max_steps = 10\n", encoding=encoding)
    (tmp_path / "a.json").write_text('{"model_type": "gpt2"}', encoding=encoding)
    with pytest.raises(InputError, match=r"a.toml is UTF-16 text; convert it to UTF-8: iconv"):
        toml_file.read(tmp_path / "a.toml")
    with pytest.raises(InputError, match=r"a.json is UTF-16 text; convert it to UTF-8: iconv"):
        read_object(tmp_path / "a.json")


def test_an_empty_model_name_is_refused() -> None:
    """Empty strings: an empty path is the working directory to pathlib."""
    with pytest.raises(InputError, match="the model's name is empty"):
        locate("")


def test_numbers_of_a_list_are_written_like_all_others() -> None:
    """How people write numbers."""
    words = ["runs/a", "--steps", "10k", "1e4", "--json"]
    assert cli.parse(ReportConfig, prog="report", args=words).steps == ((10_000, 10_000),)
    with pytest.raises(InputError, match="--steps ten: not a whole number"):
        cli.parse(ReportConfig, prog="report", args=["runs/a", "--steps", "ten"])


def test_nanogpts_name_of_a_corpus_is_known() -> None:
    """Names that newcomers bring."""
    with pytest.raises(InputError, match="prepare shakespeare --tokenizer chars"):
        TokenDataset("shakespeare_char")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Encodings that people have: a folder from a system with latin-1 names."""
    folder = tmp_path / os.fsdecode(b"donn\xe9es")
    folder.mkdir()
    np.arange(300, 400, dtype="<u2").tofile(folder / "train.bin")
    dataset = TokenDataset(folder)
    assert dataset.window(0, 100)[-1] == 399
    assert Path(dataset.shards.files[0].path) == folder / "train.bin"
    (folder / "train.bin").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        TokenDataset(folder)


def test_huge_shapes_are_refused_before_they_are_built() -> None:
    """A configuration is not believed before the file that it describes is looked at."""
    config, _ = layout.from_config({"model_type": "gpt2", "n_layer": 10**9})
    with pytest.raises(InputError, match="n_layer is 1,000,000,000, and there are 1 tensors"):
        layout.match({"wte.weight": (1, 1)}, config)
    with pytest.raises(InputError, match="nearest that do"):  # not by trying 10**12 divisors
        TrainConfig(batch_tokens=2**40, block_size=1, micro_batch=3).check_shapes()


def test_json_is_built_by_type() -> None:
    """Casts without a look: true is not 1, "1" is not 1, and depth has an end."""
    good = {"step": 3, "val_loss": 1, "skipped_steps": 0}
    state = build(checkpoint.TrainerState, good)
    assert (state.step, state.val_loss, type(state.val_loss)) == (3, 1.0, float)
    for bad in ({"step": True}, {"step": "3"}, {"val_loss": "1"}, {"scaling": {"a": "b"}}):
        with pytest.raises(TypeError, match="can't be used"):
            build(checkpoint.TrainerState, good | bad)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse("[" * 100_000)
