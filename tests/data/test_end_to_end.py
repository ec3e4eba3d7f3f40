"""Parquet to shards to a run to its evaluation; the same ids in nanoGPT's reader; flat memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pygpt.data import TokenDataset
from pygpt.data.corpora.parquet import Parquet
from pygpt.data.selection import Limits
from pygpt.data.writer import prepare
from pygpt.tokenizers.base import get_tokenizer
from tests.helpers.big_parquet import peak_of_prepare, write_parquet
from tests.helpers.corpus import random_text


def command(*words: object) -> str:
    line = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parquet_to_shards_to_a_run_to_its_evaluation(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "text.parquet"
    pq.write_table(pa.table({"content": [random_text(rng, 40) for _ in range(60)]}), path)
    data, run = tmp_path / "data", tmp_path / "run"
    words = ["parquet", path, "--text-column", "content", "--out", data, "--tokenizer", "bytes"]
    command("pygpt.prepare", *words, "--val-fraction", 0.2, "--shard-tokens", 4000)
    assert len(json.loads((data / "dataset.json").read_text())["splits"]["train"]["shards"]) > 1
    size = ["--n-layer", 1, "--n-head", 1, "--n-embd", 16, "--block-size", 32]
    steps = ["--max-steps", 2, "--micro-batch", 4, "--batch-tokens", 128, "--device", "cpu"]
    command("pygpt.train", "--data", data, "--out", run, *size, *steps)
    result = command("pygpt.eval", run, "--json")
    assert 0 < json.loads(result)["loss"] < 10


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes"])
def test_nanogpts_reader_sees_the_same_ids(tmp_path: Path, seed: int, tokenizer: str) -> None:
    rng = random.Random(seed)
    texts = [random_text(rng, 30) for _ in range(40)]
    path = tmp_path / "text.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    prepare(Parquet((path,)), tmp_path / "data", tokenizer, val_fraction=0.2, limits=Limits())
    encoder = get_tokenizer(tokenizer)
    for split in ("train", "val"):
        # nanoGPT's train.py reads a split this way.
        ids = np.memmap(tmp_path / "data" / f"{split}.bin", dtype=np.uint16, mode="r")
        ours = TokenDataset(tmp_path / "data", split)
        np.testing.assert_array_equal(ids, ours.window(0, len(ours)))
        ends = np.flatnonzero(ids == encoder.info.end_of_text)
        for document in np.split(ids, ends + 1)[:-1]:
            text = encoder.decode(document[:-1].tolist())
            assert text in texts
            assert encoder.encode(text) == document[:-1].tolist()


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = {}
    for megabytes in (60, 150):
        path = tmp_path / f"{megabytes}.parquet"
        write_parquet(path, megabytes * 1_000_000, megabytes)
        peaks[megabytes] = peak_of_prepare(path, tmp_path / f"out-{megabytes}")
    # A preparation that kept its text would grow by 90 MB. 2 GB that grow by less than 0.35 of
    # their size stay below 1 GB with the 300 MB that the process starts with.
    assert peaks[150] - peaks[60] < 0.35 * 90_000_000
    assert peaks[150] < 1_000_000_000
