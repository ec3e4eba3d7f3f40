"""Directories without dataset.json: which file is which split, and ids that are not GPT-2's."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pygpt.data import TokenDataset
from pygpt.data.corpora import CORPUS_NAMES
from pygpt.utils.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def ids(seed: int, n: int = 1000, limit: int = 50257, dtype: str = "<u2") -> NDArray[np.integer]:
    return np.random.default_rng(seed).integers(1, limit, n).astype(dtype)


@pytest.mark.parametrize("name", ["medieval", "interval", "constraints", "retrain", "devalued"])
@pytest.mark.parametrize("suffix", ["bin", "npy"])
def test_a_split_is_a_whole_word_of_the_name(
    directory: Path, seed: int, name: str, suffix: str
) -> None:
    splits = {"train": ids(seed), "val": ids(seed + 1)}
    for split, values in splits.items():
        path = directory / f"{name}_{split}_000.{suffix}"
        values.tofile(path) if suffix == "bin" else np.save(path, values)
    for split, values in splits.items():
        np.testing.assert_array_equal(TokenDataset(directory, split).window(0, 1000), values)
    with pytest.raises(InputError, match="no shards of 'test'"):
        TokenDataset(directory, "test")


@pytest.mark.parametrize("name", ["train_val.bin", "val-of-train.bin", "x.TEST.train.bin"])
def test_a_file_that_two_splits_could_claim_is_refused(
    directory: Path, seed: int, name: str
) -> None:
    ids(seed).tofile(directory / name)
    with pytest.raises(InputError, match=f"{name} could belong to the splits .* and "):
        TokenDataset(directory)


def test_every_shard_is_checked_for_uint32(directory: Path, seed: int) -> None:
    ids(seed).tofile(directory / "x_train_000.bin")
    ids(seed, dtype="<u4").tofile(directory / "x_train_001.bin")
    with pytest.raises(InputError, match=r"every second id of .*x_train_001.bin.*uint32"):
        TokenDataset(directory)


@pytest.mark.parametrize("n", [1, 2, 20, 31])
def test_a_few_uint32_ids_are_not_read_as_uint16(directory: Path, seed: int, n: int) -> None:
    ids(seed, n, dtype="<u4").tofile(directory / "train.bin")
    with pytest.raises(InputError, match="too few ids to be certain"):
        TokenDataset(directory)


@pytest.mark.parametrize(("largest", "n"), [(64, 1000), (255, 1000), (31_999, 20_000)])
def test_ids_that_are_not_gpt2s_are_refused_by_their_largest(
    directory: Path, seed: int, largest: int, n: int
) -> None:
    values = ids(seed, n, largest + 1)
    values[n // 2] = largest
    values.tofile(directory / "train.bin")
    with pytest.raises(InputError, match=f"the largest of the {n:,} ids .* is {largest}: .*--tok"):
        TokenDataset(directory)
    assert len(TokenDataset(directory, tokenizer="gpt2")) == n


def test_a_given_tokenizer_bounds_the_ids(directory: Path, seed: int) -> None:
    ids(seed, limit=256).tofile(directory / "train.bin")
    assert TokenDataset(directory, tokenizer="bytes").tokenizer.name == "bytes"
    with pytest.raises(InputError, match="no tokenizer 'llama'"):
        TokenDataset(directory, tokenizer="llama")


def test_one_id_gives_no_warnings_of_numpy(directory: Path) -> None:
    np.array([464], "<u2").tofile(directory / "train.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(TokenDataset(directory)) == 1


@pytest.mark.parametrize("name", CORPUS_NAMES)
def test_a_corpus_name_in_place_of_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"`python -m pygpt.prepare {name}` prepares it"):
        TokenDataset(name)
