"""TokenDataset: formats, shard borders, and every shard that must be refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pygpt.data import TokenDataset, dataset, verify
from pygpt.data.manifest import DatasetInfo, ShardInfo, SplitInfo
from pygpt.tokenizers.base import get_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

GPT2 = TokenizerInfo("gpt2", n_vocab=50257, end_of_text=50256, hash="0" * 64)
Ids = NDArray[np.unsignedinteger]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pygpt" / "scans"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty dataset directory; without a dataset.json its ids are GPT-2's."""
    monkeypatch.setattr(dataset, "_tokenizer_info", lambda name: GPT2)
    path = tmp_path / "data"
    path.mkdir()
    return path


def random_ids(seed: int, n: int = 1000, dtype: str = "<u2", n_vocab: int = 50257) -> Ids:
    return np.random.default_rng(seed).integers(0, n_vocab, n).astype(dtype)


def write_llmc(path: Path, ids: Ids, tokens: int | None = None, version: int | None = None) -> None:
    header = np.zeros(256, "<i4")
    magic, expected_version = (20240520, 1) if ids.dtype == np.uint16 else (20240801, 7)
    header[:3] = magic, version or expected_version, len(ids) if tokens is None else tokens
    path.write_bytes(header.tobytes() + ids.tobytes())


def describe(
    directory: Path,
    shards: dict[str, Ids],
    tokenizer: TokenizerInfo = GPT2,
    split: str = "train",
    dtype: str = "uint16",
) -> None:
    """Write a dataset.json over shards that lie in the directory."""
    infos = tuple(
        ShardInfo(name, len(ids), hashlib.sha256((directory / name).read_bytes()).hexdigest())
        for name, ids in shards.items()
    )
    DatasetInfo(tokenizer, dtype, {split: SplitInfo(1, 1234, infos)}, "a test").write(directory)


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [1, 5])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("form", ["raw", "llm.c", "npy"])
def test_formats_and_windows_over_borders(
    directory: Path, seed: int, form: str, dtype: str, n_shards: int
) -> None:
    rng = np.random.default_rng(seed)
    n_vocab = 50257 if dtype == "uint16" else 2**31
    ids = random_ids(seed, 1000, np.dtype(dtype).newbyteorder("<").str, n_vocab)
    parts = np.split(ids, np.sort(rng.choice(np.arange(1, 1000), n_shards - 1, replace=False)))
    shards = {
        f"part-{at}.{'npy' if form == 'npy' else 'bin'}": part for at, part in enumerate(parts)
    }
    for name, part in shards.items():
        if form == "npy":
            np.save(directory / name, part)
        elif form == "llm.c":
            write_llmc(directory / name, part)
        else:
            part.tofile(directory / name)
    describe(directory, shards, TokenizerInfo("gpt2", n_vocab, 1, ""), dtype=dtype)

    dataset = TokenDataset(directory)

    assert {file.format for file in dataset.shards.files} == {form}
    assert len(dataset) == dataset.n_tokens == 1000
    assert (dataset.n_bytes, dataset.tokenizer.n_vocab) == (1234, n_vocab)
    whole = dataset.window(0, 1000)
    assert whole.dtype == np.int64
    np.testing.assert_array_equal(whole, ids)
    for _ in range(50):
        start, stop = sorted(rng.integers(0, 1001, 2).tolist())
        np.testing.assert_array_equal(dataset.window(start, stop - start), ids[start:stop])


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 1001), (1000, 1), (5, -1), (2**62, 2)])
def test_a_window_outside_is_refused(directory: Path, seed: int, start: int, length: int) -> None:
    random_ids(seed).tofile(directory / "train.bin")
    with pytest.raises(IndexError, match="outside the split's 1000"):
        TokenDataset(directory).window(start, length)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train.bin"]),
        ("val", ["val.bin"]),
        ("train", ["fineweb_train_000001.bin", "fineweb_train_000002.bin"]),
        ("val", ["edufineweb_val_000000.npy"]),
    ],
)
def test_a_directory_without_dataset_json_is_announced(
    directory: Path, seed: int, caplog: pytest.LogCaptureFixture, split: str, names: list[str]
) -> None:
    ids = random_ids(seed)
    for name, part in zip(names, np.array_split(ids, len(names)), strict=True):
        if name.endswith(".npy"):
            np.save(directory / name, part)
        elif name == f"{split}.bin":
            part.tofile(directory / name)
        else:
            write_llmc(directory / name, part)
    with caplog.at_level(logging.WARNING):
        dataset = TokenDataset(directory, split)
    np.testing.assert_array_equal(dataset.window(0, len(dataset)), ids)
    assert dataset.tokenizer == GPT2
    assert dataset.n_bytes is None
    assert "no dataset.json" in caplog.text
    assert names[0] in caplog.text


def test_ids_without_dataset_json_belong_to_our_gpt2_tokenizer(tmp_path: Path, seed: int) -> None:
    random_ids(seed).tofile(tmp_path / "train.bin")
    assert TokenDataset(tmp_path).tokenizer == get_tokenizer("gpt2").info


# --- what is refused ------------------------------------------------------------------------------


def refused(directory: Path, *parts: str, split: str = "train") -> None:
    with pytest.raises(InputError) as caught:
        TokenDataset(directory, split)
    for part in parts:
        assert part in str(caught.value)


def test_no_directory_no_split_no_shard(directory: Path, seed: int) -> None:
    refused(directory / "elsewhere", "elsewhere", "pygpt.prepare")
    refused(directory, "train.bin", "the word 'train'", "pygpt.prepare")
    ids = random_ids(seed)
    ids.tofile(directory / "train.bin")
    describe(directory, {"train.bin": ids})
    refused(directory, "no split 'test'", "train", split="test")
    (directory / "train.bin").unlink()
    refused(directory, "train.bin", "No such file")
    describe(directory, {})
    refused(directory, "names no shards", "'train'")


def test_shards_that_are_empty_odd_or_cut_off(directory: Path, seed: int) -> None:
    shard = directory / "train.bin"
    shard.touch()
    refused(directory, "train.bin", "empty")
    shard.write_bytes(b"abc")
    refused(directory, "train.bin", "3 bytes", "uint16")
    ids = random_ids(seed)
    write_llmc(shard, ids, tokens=1001)
    refused(directory, "3024 bytes", "promises 3026", "1001 tokens", "cut off")
    write_llmc(shard, ids, version=3)
    refused(directory, "version 3", "version 1")


def test_a_shard_that_is_not_what_dataset_json_says(directory: Path, seed: int) -> None:
    shard = directory / "train.bin"
    ids = random_ids(seed)
    ids.tofile(shard)
    describe(directory, {"train.bin": ids})
    TokenDataset(directory)
    ids[:-1].tofile(shard)
    refused(directory, "999 tokens", "says 1000")
    changed = ids.copy()
    changed[500] = (changed[500] + 1) % 50257
    changed.tofile(shard)
    os.utime(shard, ns=(1, 1))
    refused(directory, "train.bin", "changed since it was prepared")
    np.save(directory / "train.npy", ids.astype("<u4"))
    describe(directory, {"train.npy": ids})
    refused(directory, "train.npy", "uint32", "says uint16")


@pytest.mark.parametrize("dtype", ["<i4", "<i8", ">u2", "<f4", "|u1"])
def test_npy_of_another_type(directory: Path, seed: int, dtype: str) -> None:
    np.save(directory / "train.npy", random_ids(seed, n_vocab=200).astype(dtype))
    refused(directory, "train.npy", f"'{dtype}'", "'<u2'", "'<u4'")


def test_npy_of_another_shape_or_cut_off(directory: Path, seed: int) -> None:
    shard = directory / "train.npy"
    np.save(shard, random_ids(seed).reshape(10, 100))
    refused(directory, "(10, 100)", "one-dimensional")
    np.save(shard, random_ids(seed))
    shard.write_bytes(shard.read_bytes()[:-2])
    refused(directory, "cut off")
    shard.write_bytes(b"not numpy")
    refused(directory, "train.npy", "numpy.save")


def test_npy_of_other_header_versions(directory: Path, seed: int) -> None:
    ids = random_ids(seed)
    for version in [(1, 0), (2, 0), (3, 0)]:
        with open(directory / "train.npy", "wb") as file:
            np.lib.format.write_array(file, ids, version=version)
        np.testing.assert_array_equal(TokenDataset(directory).window(0, 1000), ids)


def test_pickles_are_not_loaded(directory: Path, seed: int) -> None:
    random_ids(seed).tofile(directory / "train.bin")
    (directory / "meta.pkl").write_bytes(b"cos\nsystem\n")
    refused(directory, "meta.pkl", "not loaded", "--tokenizer chars")


def test_shards_of_two_kinds_are_not_guessed_between(directory: Path, seed: int) -> None:
    random_ids(seed).tofile(directory / "a_train.bin")
    np.save(directory / "a_train.npy", random_ids(seed))
    refused(directory, "a_train.bin", "a_train.npy")


def test_llama_ids_are_not_taken_as_gpt2(directory: Path, seed: int) -> None:
    write_llmc(directory / "a_train.bin", random_ids(seed, dtype="<u4"))
    refused(directory, "LLaMA 3", "dataset.json")


def test_uint32_ids_without_a_header_are_not_taken_as_uint16(directory: Path, seed: int) -> None:
    (directory / "train.bin").write_bytes(random_ids(seed, dtype="<u4").tobytes())
    with pytest.raises(InputError, match="every second id of .*train.bin.* holds uint32 ids"):
        TokenDataset(directory)
    # Runs of one id are no reason to refuse.
    for ids in (random_ids(seed), np.zeros(1000, "<u2")):
        (directory / "train.bin").write_bytes(ids.tobytes())
        assert len(TokenDataset(directory, tokenizer="gpt2")) == 1000


@pytest.mark.parametrize("content", [b"\xff{}", b"[1]", b'{"format": 1, "splits": 3}', b"{"])
def test_a_damaged_dataset_json_is_named(directory: Path, content: bytes) -> None:
    (directory / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match="dataset.json is damaged .*prepare the dataset again"):
        TokenDataset(directory)


def test_the_checksum_tells_other_ids_and_nothing_else(directory: Path, seed: int) -> None:
    shard = directory / "train.bin"
    times = itertools.count(1)

    def checksum(ids: Ids) -> str:
        shard.write_bytes(ids.tobytes())
        os.utime(shard, ns=(1, next(times)))  # of two writes at once the clock may say the same
        return TokenDataset(directory).checksum

    ids, other = random_ids(seed), random_ids(seed)
    other[500] = (other[500] + 1) % 50257
    assert checksum(ids) != checksum(other)
    assert checksum(ids) == checksum(ids)


@pytest.mark.parametrize("form", ["raw", "llm.c", "npy"])
def test_the_first_id_beyond_the_vocabulary_is_named(
    directory: Path, seed: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_CHUNK_BYTES", 257)  # odd: chunks end inside ids
    good, bad = random_ids(seed), random_ids(seed + 1)
    at = int(np.random.default_rng(seed).integers(0, 1000))
    bad[at] = 50257
    bad[-1] = 65535
    for name, ids in [("a_train_0", good), ("a_train_1", bad)]:
        if form == "npy":
            np.save(directory / f"{name}.npy", ids)
        elif form == "llm.c":
            write_llmc(directory / f"{name}.bin", ids)
        else:
            ids.tofile(directory / f"{name}.bin")
    first = at if at < 999 else 999
    refused(directory, "a_train_1", f"id {bad[first]} at offset {first}", "0 to 50256")


# --- the scan is remembered -----------------------------------------------------------------------


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were really read, in order."""
    files: list[str] = []
    scan = verify._scan

    def spy(file, progress):  # type: ignore[no-untyped-def]
        files.append(Path(file.path).name)
        return scan(file, progress)

    monkeypatch.setattr(verify, "_scan", spy)
    return files


def test_a_second_opening_reads_nothing(directory: Path, seed: int, scanned: list[str]) -> None:
    ids = random_ids(seed)
    ids.tofile(directory / "train.bin")
    describe(directory, {"train.bin": ids})
    TokenDataset(directory)
    TokenDataset(directory)
    assert scanned == ["train.bin"]
    os.utime(directory / "train.bin", ns=(1, 1))
    TokenDataset(directory)
    assert scanned == ["train.bin"] * 2


def test_the_checksum_is_what_sha256sum_prints(
    directory: Path, seed: int, cache: Path, scanned: list[str]
) -> None:
    ids = random_ids(seed)
    write_llmc(directory / "a_train.bin", ids)
    TokenDataset(directory)
    (remembered,) = cache.glob("*.json")
    scan = json.loads(remembered.read_text())
    whole = (directory / "a_train.bin").read_bytes()
    assert scan["sha256"] == hashlib.sha256(whole).hexdigest()
    assert scan["largest_id"] == ids.max()


def test_a_remembered_scan_is_checked_against_the_vocabulary_of_today(
    directory: Path, seed: int, scanned: list[str]
) -> None:
    ids = random_ids(seed)
    ids[3] = 40000
    ids.tofile(directory / "train.bin")
    describe(directory, {"train.bin": ids})
    TokenDataset(directory)
    describe(directory, {"train.bin": ids}, TokenizerInfo("bytes", 257, 256, ""))
    first = int(np.flatnonzero(ids >= 257)[0])
    refused(directory, f"at offset {first} ", "'bytes'", "0 to 256")
    assert scanned == ["train.bin"]


def test_a_cache_that_cannot_be_used_is_not_fatal(
    directory: Path, seed: int, cache: Path, caplog: pytest.LogCaptureFixture, scanned: list[str]
) -> None:
    random_ids(seed).tofile(directory / "train.bin")
    TokenDataset(directory)
    (remembered,) = cache.glob("*.json")
    remembered.write_text("{damaged")
    TokenDataset(directory)
    assert scanned == ["train.bin"] * 2
    remembered.unlink()
    cache.rmdir()
    cache.touch()  # a file where the folder should be
    TokenDataset(directory)
    assert "can't be remembered" in caplog.text


# --- without the compiled core --------------------------------------------------------------------


def test_a_missing_core_says_what_to_do() -> None:
    code = "import sys; sys.modules['pygpt._C'] = None; import pygpt.data"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ImportError" in ran.stderr
    assert "pip install -e ." in ran.stderr
