"""Records: JSON lines and parquet in, shards out; what can't be used is named and counted."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from pygpt.data import TokenDataset
from pygpt.data.corpora.jsonl import JsonLines
from pygpt.data.corpora.parquet import Parquet
from pygpt.data.corpora.parts import Records
from pygpt.data.inspection import Show, Verify
from pygpt.data.manifest import DatasetInfo
from pygpt.data.selection import Limits
from pygpt.data.writer import prepare
from pygpt.tokenizers.base import get_tokenizer
from pygpt.utils.errors import InputError
from tests.helpers.corpus import random_text

pa = pytest.importorskip("pyarrow", reason="waits for pyarrow: pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SMALL = Limits(shard_tokens=1000)


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


def random_texts(rng: random.Random, n: int) -> list[str]:
    return [f"{i} {random_text(rng, rng.randrange(1, 9))}<|endoftext|>" for i in range(n)]


def write_jsonl(path: Path, texts: list[Any]) -> Path:
    content = "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts))
    opened = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
    if path.suffix == ".zst":
        zstandard = pytest.importorskip("zstandard", reason="waits for zstandard")
        opened = zstandard.open
    with opened(path, "wb") as file:
        file.write(content.encode())
    return path


def write_parquet(path: Path, texts: list[Any], rows: int = 7) -> Path:
    table = pa.table({"url": ["u"] * len(texts), "text": pa.array(texts)})
    pq.write_table(table, path, row_group_size=rows)
    return path


def documents(directory: Path) -> dict[str, list[str]]:
    """The texts of each split, read by `TokenDataset` over all shards."""
    found = {}
    for name, split in DatasetInfo.read(directory).splits.items():
        dataset = TokenDataset(directory, name)
        tokenizer = get_tokenizer(dataset.tokenizer.name)
        texts: list[str] = []
        ids: list[int] = []
        for index in dataset.window(0, len(dataset)).tolist():
            if index == tokenizer.info.end_of_text:
                texts.append(tokenizer.decode(ids))
                ids = []
            else:
                ids.append(index)
        assert ids == []
        assert len(texts) == split.documents
        found[name] = texts
    return found


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes"])
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.xz", "jsonl.bz2", "jsonl.zst", "pq"])
def test_all_texts_come_back(tmp_path: Path, rng: random.Random, form: str, tokenizer: str) -> None:
    texts = random_texts(rng, 100)
    path = tmp_path / f"x.{form}"
    corpus: Records = JsonLines((path,))
    if form == "pq":
        corpus = Parquet((write_parquet(path, texts),))
    else:
        write_jsonl(path, texts)
    info = prepare(corpus, tmp_path / "out", tokenizer, val_fraction=0.2, limits=SMALL)
    found = documents(tmp_path / "out")
    order = {text: i for i, text in enumerate(texts)}
    assert sorted(found["train"] + found["val"], key=order.__getitem__) == texts
    for part in found.values():
        assert part == sorted(part, key=order.__getitem__)  # in the order of the corpus
    for split in info.splits.values():
        assert all(shard.tokens == 1000 for shard in split.shards[:-1])
    assert "all shards are as dataset.json says" in Verify(tmp_path / "out").run()
    number = rng.randrange(len(found["train"]))
    assert Show(tmp_path / "out", number).run() == found["train"][number]


def test_the_split_of_a_record_depends_on_its_text(tmp_path: Path, rng: random.Random) -> None:
    texts = random_texts(rng, 400)
    splits = []
    for at, order in enumerate((texts, texts[::-1])):
        path = write_jsonl(tmp_path / f"{at}.jsonl", order)
        prepare(JsonLines((path,)), tmp_path / f"out{at}", "bytes", seed=3, limits=SMALL)
        splits.append(set(documents(tmp_path / f"out{at}")["val"]))
    # The first record of each order goes to val whatever it draws.
    assert len(splits[0] ^ splits[1]) <= 2
    # Binomial(400, 0.05): mean 20, standard deviation 4.4; outside 20 ± 6σ once in 5e8 runs.
    assert abs(len(splits[0]) - 20) <= 28


def test_val_tokens_bounds_the_val_split(tmp_path: Path, rng: random.Random) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", random_texts(rng, 200))
    limits = Limits(shard_tokens=1000, val_tokens=500)
    prepare(JsonLines((path,)), tmp_path / "out", "bytes", val_fraction=0.5, limits=limits)
    val = documents(tmp_path / "out")["val"]
    sizes = [len(text.encode()) + 1 for text in val]
    assert sum(sizes[:-1]) < 500 <= sum(sizes)


def test_max_tokens_stops_after_the_document_that_reaches_it(
    tmp_path: Path, rng: random.Random
) -> None:
    texts = random_texts(rng, 200)
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    limits = Limits(shard_tokens=1000, max_tokens=1500)
    prepare(JsonLines((path,)), tmp_path / "out", "bytes", limits=limits)
    found = documents(tmp_path / "out")
    n = len(found["train"]) + len(found["val"])
    assert set(found["train"] + found["val"]) == set(texts[:n])
    sizes = [len(text.encode()) + 1 for text in texts[:n]]
    assert sum(sizes[:-1]) < 1500 <= sum(sizes)


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    texts = ["first", "", "ab", "same text", "x" * 50, "same text", "é" * 5, "last one", None, 7]
    path = write_jsonl(tmp_path / "x.jsonl", texts)
    with path.open("ab") as file:
        file.write(b'{"other": 1}\n[1]\n{"text": "\\ud800"}\n{"text": "\xff"}\n{broken\n\n')
    limits = Limits(shard_tokens=8, min_bytes=3, max_bytes=20, dedup=True, skip_bad=True)
    info = prepare(JsonLines((path,)), tmp_path / "out", "bytes", limits=limits)
    found = documents(tmp_path / "out")
    assert sorted(found["train"] + found["val"]) == ["first", "last one", "same text", "é" * 5]
    assert info.details is not None
    assert info.details["dropped"] == {
        "empty": 1,
        "shorter than --min-bytes": 1,
        "longer than --max-bytes": 1,
        "duplicate": 1,
        "unreadable": 7,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"title": 1, "body": 2}', "no field 'text' but title, body; choose one with --text-col"),
        (b'{"text": null}', "'text' is null"),
        (b'{"text": {"a": "b"}}', "'text' is a dict"),
        (b'{"text": ["a"]}', "'text' is a list"),
        (b'{"text": "\xff"}', "not UTF-8 JSON"),
        (b'{"text": "cut o', "not UTF-8 JSON"),
        (b"3", "not a JSON object"),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", ["a", "b"])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=rf"x\.jsonl, record 2: .*{message}.*--skip-bad"):
        prepare(JsonLines((path,)), tmp_path / "out", "bytes", limits=SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_a_truncated_file_is_named(tmp_path: Path, rng: random.Random, suffix: str) -> None:
    texts = [f"{rng.random()}" * 50 for _ in range(2000)]
    path = write_jsonl(tmp_path / f"x.jsonl{suffix}", texts)
    path.write_bytes(path.read_bytes()[:-1000])
    limits = Limits(shard_tokens=1_000_000)
    with pytest.raises(InputError, match=r"x\.jsonl.*record .*damaged or cut off"):
        prepare(JsonLines((path,)), tmp_path / "out", "bytes", limits=limits)
    limits = Limits(shard_tokens=1_000_000, skip_bad=True)
    info = prepare(JsonLines((path,)), tmp_path / "kept", "bytes", limits=limits)
    assert info.details is not None
    assert info.details["dropped"] == {"unreadable": 1}
    found = documents(tmp_path / "kept")
    assert set(found["train"] + found["val"]) <= set(texts)


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", ["a", "b"])
    with pytest.raises(InputError, match="no column 'body'; it has url, text: .*--text-column"):
        Parquet((path,), "body").parts()
    with pytest.raises(InputError, match="nowhere can't be read: No such file"):
        Parquet((tmp_path / "nowhere",)).parts()
    nested = tmp_path / "nested.parquet"
    pq.write_table(pa.table({"text": [["a"], ["b"]]}), nested)
    with pytest.raises(InputError, match="column 'text' of .*list.* and not strings"):
        Parquet((nested,)).parts()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a whole parquet file"):
        Parquet((path,)).parts()


def test_null_and_invalid_utf8_in_parquet(tmp_path: Path) -> None:
    invalid = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")
    )
    for name, column in [("null", pa.array(["a", None, "b"])), ("utf", invalid)]:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column}), path)
        with pytest.raises(InputError, match=rf"{name}\.parquet#0, record 1: (null|not UTF-8)"):
            prepare(Parquet((path,)), tmp_path / "out" / name, "bytes", limits=SMALL)
        limits = Limits(shard_tokens=1000, skip_bad=True)
        prepare(Parquet((path,)), tmp_path / "skipped" / name, "bytes", limits=limits)
        found = documents(tmp_path / "skipped" / name)
        assert sorted(found["train"] + found["val"]) == ["a", "b"]


def test_one_document_is_not_enough(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", ["alone", ""])
    with pytest.raises(InputError, match=r"no document for the split train .*written: 1, 1 empty"):
        prepare(JsonLines((path,)), tmp_path / "out", "bytes", limits=SMALL)
    assert not (tmp_path / "out").exists()
