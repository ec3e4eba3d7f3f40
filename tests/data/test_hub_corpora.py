"""Datasets of the Hub, by a stand-in for huggingface_hub's API: no network is used."""

from __future__ import annotations

import os
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygpt.data import TokenDataset
from pygpt.data.corpora import hub
from pygpt.data.corpora.select import select
from pygpt.data.manifest import DatasetInfo
from pygpt.data.options import Options
from pygpt.data.ready import Merge, Shards
from pygpt.data.selection import Limits
from pygpt.data.writer import prepare
from pygpt.utils.errors import InputError

pa = pytest.importorskip("pyarrow", reason="waits for pyarrow: pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="waits for huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIMITS = Limits(shard_tokens=1000)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose subfolders OWNER/NAME are the datasets of the Hub."""
    root = tmp_path / "hub"

    class Api:
        def dataset_info(self, repo: str, revision: str | None = None) -> Any:
            assert (root / repo).is_dir()
            return types.SimpleNamespace(sha=COMMIT)

        def list_repo_tree(
            self, repo: str, folder: str | None, *, recursive: bool, revision: str, repo_type: str
        ) -> Iterator[Any]:
            assert (recursive, revision, repo_type) == (True, COMMIT, "dataset")
            base = root / repo
            for path in (base / (folder or "")).rglob("*"):
                name = path.relative_to(base).as_posix()
                size = {} if path.is_dir() else {"size": path.stat().st_size}
                yield types.SimpleNamespace(path=name, **size)

    def fetch(repo: str, name: str, *, repo_type: str, revision: str, local_dir: Any) -> str:
        assert (repo_type, revision) == ("dataset", COMMIT)
        if local_dir is None:
            return str(root / repo / name)
        os.makedirs(local_dir, exist_ok=True)
        return str(shutil.copy(root / repo / name, Path(local_dir) / name))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return root


def add(path: Path, n: int, start: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"document {i} of {path.name}" for i in range(start, start + n)]
    pq.write_table(pa.table({"text": texts, "n": range(n)}), path, row_group_size=5)


@pytest.mark.parametrize(
    ("options", "repo", "folder"),
    [
        (Options("openwebtext"), "Skylion007/openwebtext", "plain_text"),
        (Options("fineweb", sample="10BT"), "HuggingFaceFW/fineweb", "sample/10BT"),
        (
            Options("fineweb-edu", dump="CC-MAIN-2013-20"),
            "HuggingFaceFW/fineweb-edu",
            "data/CC-MAIN-2013-20",
        ),
        (Options("some-one/any.data"), "some-one/any.data", "data"),
    ],
)
def test_a_dataset_is_prepared_and_its_commit_recorded(
    tmp_path: Path, remote: Path, options: Options, repo: str, folder: str
) -> None:
    for i in range(3):
        add(remote / repo / folder / f"{i:03}.parquet", 20)
    (remote / repo / "README.md").write_text("not data")
    (remote / repo / "script.py").write_text("raise SystemExit")
    info = prepare(select(options), tmp_path / "out", "bytes", limits=LIMITS)
    assert sum(split.documents for split in info.splits.values()) == 60
    details = DatasetInfo.read(tmp_path / "out").details
    assert details is not None
    assert details["revision"] == COMMIT
    first = info.splits["train"].shards[0].first
    assert first is not None
    assert first.startswith(f"{folder}/000.parquet:")


def test_fineweb_takes_only_what_was_named(tmp_path: Path, remote: Path) -> None:
    add(remote / "HuggingFaceFW/fineweb/sample/10BT/0.parquet", 9)
    add(remote / "HuggingFaceFW/fineweb/sample/100BT/0.parquet", 9)
    parts = select(Options("fineweb", sample="10BT")).parts()  # type: ignore[union-attr]
    assert [part.name for part in parts] == ["sample/10BT/0.parquet"]
    for options in (Options("fineweb"), Options("fineweb", sample="10BT", dump="x")):
        with pytest.raises(InputError, match="give one of --sample 10BT"):
            select(options)
    with pytest.raises(InputError, match="--dump belongs to fineweb"):
        select(Options("openwebtext", dump="x"))


def test_ranks_share_the_files_and_merge_joins_them(tmp_path: Path, remote: Path) -> None:
    for i in range(5):
        add(remote / "a/b" / f"{i}.parquet", 20)
    outs = []
    for rank in range(2):
        outs.append(tmp_path / f"rank{rank}")
        corpus = select(Options("a/b", rank=rank, world=2))
        prepare(corpus, outs[-1], "bytes", limits=LIMITS)
    Merge(tuple(outs), tmp_path / "all").run()
    tokens = []
    for split in ("train", "val"):
        joined = TokenDataset(tmp_path / "all", split)
        parts = [TokenDataset(out, split) for out in outs]
        ids = np.concatenate([part.window(0, len(part)) for part in parts])
        np.testing.assert_array_equal(joined.window(0, len(joined)), ids)
        tokens += bytes(ids[ids < 256].astype("u1")).decode().split("document ")[1:]
    assert sorted(tokens) == sorted(f"{n} of {i}.parquet" for i in range(5) for n in range(20))
    with pytest.raises(InputError, match="exists; take another --out"):
        Merge(tuple(outs), tmp_path / "all").run()
    with pytest.raises(InputError, match="gets nothing of a/b, which has 5 parts"):
        select(Options("a/b", rank=7, world=9)).parts()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="--rank 2 is not in"):
        select(Options("a/b", rank=2, world=2))


def test_ready_shards_get_a_dataset_json(tmp_path: Path, remote: Path, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 50257, 3000).astype("<u2")
    ids[::100] = 50256
    (remote / "who/shards").mkdir(parents=True)
    for name in ("web_train_000001", "web_train_000002", "web_val_000000"):
        ids.tofile(remote / "who/shards" / f"{name}.bin")
    out = tmp_path / "shards"
    text = Shards("who/shards", out=out, max_files=1).run()
    assert f"python -m pygpt.train --data {out}" in text
    info = DatasetInfo.read(out)
    assert [shard.file for shard in info.splits["train"].shards] == ["web_train_000001.bin"]
    assert info.splits["val"].documents == np.count_nonzero(ids == 50256)
    assert TokenDataset(out).n_bytes == info.splits["train"].bytes > 0
    with pytest.raises(InputError, match="has a dataset.json already"):
        Shards(str(out)).run()
    with pytest.raises(InputError, match="neither a directory nor OWNER/NAME"):
        Shards("nowhere").run()


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "hf auth login"), (403, "request it"), (404, "no such dataset"), (429, "wait some")],
)
def test_errors_of_the_hub_say_what_to_do(status: int, message: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    class Refused(HfHubHTTPError):
        def __init__(self) -> None:
            Exception.__init__(self, "refused")
            self.response = types.SimpleNamespace(status_code=status)  # type: ignore[assignment]

    with (
        pytest.raises(InputError, match=f"a/b with status {status}: .*{message}"),
        hub.explained("a/b"),
    ):
        raise Refused


def test_no_network_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    for error in (OfflineModeIsEnabled("x"), LocalEntryNotFoundError("x"), ConnectionError("x")):
        with (
            pytest.raises(InputError, match="no network.*hf download .*prepare parquet"),
            hub.explained("a/b"),
        ):
            raise error


def test_nothing_to_read(remote: Path) -> None:
    (remote / "a/b").mkdir(parents=True)
    (remote / "a/b/README.md").write_text("x")
    with pytest.raises(InputError, match="neither parquet nor JSON lines"):
        select(Options("a/b")).parts()  # type: ignore[union-attr]
