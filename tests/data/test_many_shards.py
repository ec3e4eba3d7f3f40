"""A split of many large shards: opened by headers and sizes, sampled in flat memory, well mixed."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import numpy as np
import pytest

from pygpt.data import BatchSampler, TokenDataset, dataset
from pygpt.data.manifest import DatasetInfo, ShardInfo, SplitInfo
from pygpt.tokenizers.base import get_tokenizer
from pygpt.utils.errors import InputError


def sparse(directory: Path, n_shards: int, shard_tokens: int) -> Path:
    """A dataset of zeros that takes no room on the disk."""
    directory.mkdir()
    shards = []
    for at in range(n_shards):
        path = directory / f"train-{at:05}.bin"
        with path.open("wb") as file:
            file.truncate(2 * shard_tokens)
        shards.append(ShardInfo(path.name, shard_tokens, f"{at:064x}"))
    split = SplitInfo(n_shards, n_shards * shard_tokens, tuple(shards))
    info = get_tokenizer("gpt2").info
    DatasetInfo(info, "uint16", {"train": split}, "zeros").write(directory)
    return directory


def anonymous_bytes() -> int:
    """Memory of this process that is not the pages of files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return 1024 * int(found[1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_thousand_shards_open_without_being_read(tmp_path: Path) -> None:
    directory = sparse(tmp_path / "large", 1000, 100_000_000)
    start = time.process_time()
    opened = TokenDataset(directory)
    sampler = BatchSampler(opened, 12, 1024, seed=1)
    seconds = time.process_time() - start
    assert opened.n_tokens == 100_000_000_000
    # Reading 200 GB takes minutes; opening was measured at 0.1 s, most of it the 1,000 look-ups.
    assert seconds < 2
    for step in (0, 10**6):
        x, y = sampler.batch(step)
        assert not x.any()
        assert not y.any()


def test_memory_is_flat_over_batches(tmp_path: Path) -> None:
    directory = sparse(tmp_path / "large", 100, 100_000_000)
    sampler = BatchSampler(TokenDataset(directory), 12, 64, seed=1)
    out = np.empty((12, 64), np.int64), np.empty((12, 64), np.int64)
    for step in range(1000):
        sampler.batch(step, out)
    before = anonymous_bytes()
    for step in range(1000, 21_000):
        sampler.batch(step, out)
    # 20,000 batches that kept their 12 starts of 8 bytes each would be 1.9 MB.
    assert anonymous_bytes() - before < 1_000_000


def test_an_id_beyond_the_vocabulary_is_found_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SCANNED_BYTES", 1000)
    directory = sparse(tmp_path / "data", 2, 1000)
    ids = np.zeros(1000, np.uint16)
    ids[700] = 60_000
    ids.tofile(directory / "train-00001.bin")
    opened = TokenDataset(directory)
    assert opened.window(0, 1700).sum() == 0
    with pytest.raises(InputError, match=r"id 60000 .* ids 0 to 50256.*prepare verify"):
        opened.window(0, 1701)
    sampler = BatchSampler(opened, 15, 128)
    with pytest.raises(InputError, match="id 60000"):
        sampler.batch(0)


def test_neighbours_land_far_apart(tmp_path: Path, seed: int) -> None:
    """Windows side by side in the text are as far apart in an epoch as two random places."""
    n_windows, batch_size, block_size = 20_000, 16, 8
    directory = tmp_path / "counting"
    directory.mkdir()
    n_tokens = (n_windows + 1) * block_size
    np.arange(n_tokens, dtype="<u4").tofile(directory / "train.bin")
    shard = ShardInfo("train.bin", n_tokens, "0" * 64)
    info = get_tokenizer("gpt2").info
    split = SplitInfo(1, n_tokens, (shard,))
    DatasetInfo(info, "uint32", {"train": split}, "counting").write(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "SCANNED_BYTES", 0)
        patch.setattr(TokenDataset, "check_ids", lambda *_: None)
        sampler = BatchSampler(TokenDataset(directory), batch_size, block_size, seed=seed)
        assert sampler.tokens_per_epoch == n_windows * block_size
        starts = [
            int(x) for step in range(n_windows // batch_size) for x in sampler.batch(step)[0][:, 0]
        ]
    place = np.empty(n_windows, np.int64)
    place[(np.array(starts) - min(starts)) // block_size] = np.arange(n_windows)
    distances = np.abs(np.diff(place))
    # Two random places of n are n / 3 apart, with a variance of n² / 18.
    n = len(distances)
    assert abs(distances.mean() / n_windows - 1 / 3) < 6 * math.sqrt(1 / 18 / n)
    # They share a batch with probability (B - 1) / (n - 1): here 15 of 20,000 pairs.
    together = int((place[1:] // batch_size == place[:-1] // batch_size).sum())
    expected = n * (batch_size - 1) / (n_windows - 1)
    assert abs(together - expected) < 6 * math.sqrt(expected)
