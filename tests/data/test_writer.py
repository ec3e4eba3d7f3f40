"""The writer: the text comes back whole, and bad input leaves nothing behind."""

import os
import random
import tokenize
from pathlib import Path

import numpy as np
import pytest

from pygpt.data import writer
from pygpt.data.corpora import base as corpora_base
from pygpt.data.corpora.base import split
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.corpora.text import TextFiles
from pygpt.data.manifest import DatasetInfo
from pygpt.data.writer import prepare
from pygpt.tokenizers.base import get_tokenizer
from pygpt.utils.errors import InputError
from tests.helpers.corpus import random_text, texts, write


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes"])
def test_the_standard_library_comes_back_whole(tmp_path: Path, tokenizer: str) -> None:
    info = writer.prepare_stdlib(tmp_path / "data", tokenizer)
    folder = Path(os.__file__).parent
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    sources = []
    for path in folder.rglob("*.py"):
        if path.stat().st_size and not left_out & set(path.relative_to(folder).parts):
            with path.open("rb") as file:
                encoding, _ = tokenize.detect_encoding(file.readline)
            sources.append(path.read_bytes().decode(encoding))
    prepared = texts(tmp_path / "data", "train") + texts(tmp_path / "data", "val")
    assert len(prepared) > 500
    assert sorted(prepared) == sorted(sources)
    assert info == DatasetInfo.read(tmp_path / "data")
    assert 0.01 < info.splits["val"].bytes / sum(s.bytes for s in info.splits.values()) < 0.15


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes"])
def test_blocks_and_threads_change_no_id(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    """Large files are encoded in blocks: the ids must be those of the whole text."""
    files: dict[str, str | bytes] = {
        f"{i:02}.txt": random_text(rng, rng.randrange(1, 200)) + "." for i in range(12)
    }
    write(tmp_path / "text", files)
    whole = get_tokenizer(tokenizer)
    expected: dict[str, list[int]] = {"train": [], "val": []}
    documents = TextFiles((tmp_path / "text",)).documents()
    for name, document in split(documents, 0.3, seed=1):
        expected[name] += [*whole.encode(str(files[document.name])), whole.info.end_of_text]
    for block_bytes, workers in [(1 << 20, 2), (13, 1), (100, 3)]:
        monkeypatch.setattr(corpora_base, "BLOCK_BYTES", block_bytes)
        out = tmp_path / f"out-{block_bytes}"
        prepare(
            TextFiles((tmp_path / "text",)),
            out,
            tokenizer,
            val_fraction=0.3,
            seed=1,
            workers=workers,
        )
        for name, ids in expected.items():
            assert np.fromfile(out / f"{name}.bin", dtype="<u2").tolist() == ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_fraction": 0.0}, "--val-fraction 0.0 "),
        ({"val_fraction": 1.0}, "--val-fraction 1.0 "),
        ({"val_fraction": float("nan")}, "--val-fraction nan "),
        ({"workers": 0}, "--workers 0 "),
        ({"seed": -1}, "seed must be in .*, got -1"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(Stdlib(), tmp_path / "out", "bytes", **change)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a", "b.txt": "b"}),))
    out = tmp_path / "out"
    out.mkdir()
    prepare(source, out, "bytes")  # an empty folder is fine
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=r"holds a prepared dataset already; take another --out"):
        prepare(source, out, "bytes")
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    for other in (tmp_path / "text", tmp_path / "text" / "a.txt"):
        with pytest.raises(InputError, match="exists and is not an empty folder"):
            prepare(source, other, "bytes")


def test_out_behind_a_link(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a", "b.txt": "b"}),))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    prepare(source, tmp_path / "link", "bytes")
    assert (tmp_path / "real" / "dataset.json").exists()


def test_out_that_cannot_be_made(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path, {"a.txt": "a", "b.txt": "b"}),))
    with pytest.raises(InputError, match=r"can't be written .*Not a directory"):
        prepare(source, tmp_path / "a.txt" / "out", "bytes")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a", "b.txt": "b"}),))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*nothing was kept"):
        prepare(source, tmp_path / "deep" / "out", "bytes")
    assert not any((tmp_path / "deep").iterdir())
