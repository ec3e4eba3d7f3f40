"""A datatrove pipeline whose last step writes shards, with datatrove's own local executor."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pygpt.data import TokenDataset
from pygpt.data.ready import Merge
from pygpt.data.selection import Limits
from pygpt.tokenizers.base import get_tokenizer
from tests.helpers.corpus import random_text

pytest.importorskip("datatrove", reason="waits for datatrove: pip install datatrove")

from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor

from pygpt.data.datatrove import PrepareShards

LIMITS = Limits(shard_tokens=2000, val_tokens=500)


class Reader:
    """A pipeline's first step; datatrove's own readers need more packages."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data, rank, world_size):  # type: ignore[no-untyped-def]
        for path in sorted(self._folder.glob("*.jsonl"))[rank::world_size]:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                yield Document(text=json.loads(line)["text"], id=f"{path.name}/{number}")


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    rng = random.Random(seed)
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abc":
        lines = [json.dumps({"text": random_text(rng, 5)}) for _ in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def texts(directory: Path, split: str) -> list[str]:
    ids = TokenDataset(directory, split)
    tokenizer = get_tokenizer("bytes")
    text = tokenizer.decode_bytes(ids.window(0, len(ids)).tolist())
    *documents, rest = text.split(b"<|endoftext|>")
    assert not rest
    return [document.decode() for document in documents]


def run(folder: Path, out: Path, tasks: int, logs: Path) -> None:
    step = PrepareShards(out, "bytes", val_fraction=0.2, limits=LIMITS)
    LocalPipelineExecutor(
        [Reader(folder), step], tasks=tasks, workers=1, logging_dir=str(logs)
    ).run()


def test_each_task_writes_its_documents_and_merge_joins_them(tmp_path: Path, folder: Path) -> None:
    # Four tasks for three files: the last has no documents.
    run(folder, tmp_path / "out", 4, tmp_path / "logs")
    parts = sorted((tmp_path / "out").iterdir())
    assert [part.name for part in parts] == ["part-00000", "part-00001", "part-00002"]
    Merge(tuple(parts), tmp_path / "all").run()
    written = sorted(texts(tmp_path / "all", "train") + texts(tmp_path / "all", "val"))
    expected = [
        json.loads(line)["text"]
        for path in folder.iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert written == sorted(expected)
    stats = json.loads((tmp_path / "logs" / "stats" / "00000.json").read_text(encoding="utf-8"))
    counted = stats[-1]["stats"]
    assert counted["train_documents"]["total"] + counted["val_documents"]["total"] == 60


def test_a_task_that_is_run_again_keeps_its_dataset(tmp_path: Path, folder: Path) -> None:
    run(folder, tmp_path / "out", 3, tmp_path / "logs")
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.bin")}
    run(folder, tmp_path / "out", 3, tmp_path / "other-logs")  # as if the marks were lost
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.bin")} == before
