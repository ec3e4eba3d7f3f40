"""`--data A:0.7 --data B:0.3`: a run on several datasets, its record, how it goes on, its loss."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pygpt import eval as eval_command
from pygpt.data import BatchSampler, TokenDataset, writer
from pygpt.data.corpora.text import TextFiles
from pygpt.data.mixture import open_split
from pygpt.hub.stored import read_tensors
from pygpt.runs.run import Run
from pygpt.training.batches import Batches
from pygpt.utils.errors import InputError
from tests.helpers.corpus import random_text

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 32 --dropout 0.1
    --batch-tokens 256 --micro-batch 4 --max-steps 8 --warmup-steps 2 --lr-decay-steps 8
    --eval-interval 4 --eval-tokens 256 --checkpoint-interval 4 --device cpu --dtype float32
""".split()


@pytest.fixture
def other(tmp_path: Path, seed: int) -> Path:
    (tmp_path / "x:1.txt").write_text(random_text(random.Random(seed), 3000), encoding="utf-8")
    out = tmp_path / "x:1"  # a path with a colon and a number
    writer.prepare(TextFiles((tmp_path / "x:1.txt",)), out, "bytes")
    return out


def losses(run: Run) -> list[float]:
    return [line["train_loss"] for line in run.read_metrics()]


def test_a_run_on_a_mixture_goes_on_exactly(
    run_train: Callable[..., Run], data: Path, other: Path
) -> None:
    mixed = ("--data", f"{data}:0.7", "--data", f"{other}:0.3")
    whole = run_train("whole", *mixed)
    run_train("parts", *mixed, "--max-steps", "4")
    parts = run_train("parts", "--resume", *mixed, "--max-steps", "8")
    assert losses(whole) == losses(parts)
    a, b = ((run.newest_checkpoint() or run.path) / "model.safetensors" for run in (whole, parts))
    for name, tensor in read_tensors(a).items():
        assert (tensor == read_tensors(b)[name]).all(), name
    # Each part and the total, weighted.
    for line in whole.read_metrics():
        if "val_loss" in line:
            total = 0.7 * line[f"val_loss/{data.name}"] + 0.3 * line[f"val_loss/{other.name}"]
            assert line["val_loss"] == pytest.approx(total, rel=1e-12)
    # What the run records: paths with weights, and checksums.
    assert [(part.path, part.weight) for part in whole.config().data_parts] == [
        (data, 0.7),
        (other, 0.3),
    ]
    (start,) = json.loads((whole.path / "run.json").read_text())
    recorded = {(part["path"], part["split"]): part for part in start["data"]}
    for path, share in ((data, 0.7), (other, 0.3)):
        for split in ("train", "val"):
            part = recorded[str(path), split]
            assert part["share"] == share
            assert part["sha256"] == TokenDataset(path, split).checksum


def test_resume_refuses_another_mixture(
    run_train: Callable[..., Run], data: Path, other: Path
) -> None:
    run_train("run", "--data", f"{data}:0.7", "--data", f"{other}:0.3", "--max-steps", "4")
    for changed in (
        ("--data", f"{data}:0.6", "--data", f"{other}:0.4"),
        ("--data", str(data)),
        ("--data", f"{other}:0.7", "--data", f"{data}:0.3"),
    ):
        with pytest.raises(InputError, match="can't become .* on --resume|is not the one that"):
            run_train("run", "--resume", *changed)
    # Without --data it goes on with what is recorded.
    assert len(losses(run_train("run", "--resume", "--max-steps", "5"))) == 5


def test_eval_reads_each_part_and_the_total(
    run_train: Callable[..., Run],
    data: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_train("run", "--data", f"{data}:3", "--data", f"{other}:1", "--max-steps", "4")

    def evaluated(*flags: str) -> dict[str, float]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["eval", str(run.path), "--json", *flags])
        eval_command.main()
        fields: dict[str, float] = json.loads(capsys.readouterr().out)
        return fields

    mixed = evaluated()
    alone = [evaluated("--data", str(path)) for path in (data, other)]
    assert mixed[f"loss/{data.name}"] == alone[0]["loss"]
    assert mixed[f"loss/{other.name}"] == alone[1]["loss"]
    assert mixed["loss"] == pytest.approx(0.75 * alone[0]["loss"] + 0.25 * alone[1]["loss"])
    assert mixed["tokens"] == alone[0]["tokens"] + alone[1]["tokens"]
    assert evaluated("--data", f"{data}:3", "--data", f"{other}:1")["loss"] == mixed["loss"]


def test_one_dataset_has_the_batches_it_always_had(
    run_train: Callable[..., Run], data: Path
) -> None:
    run = run_train("run", "--max-steps", "1")
    config = run.config()
    split = open_split(config.data_parts, "train")
    assert isinstance(split, TokenDataset)
    import torch

    batches = Batches(split, config, torch.device("cpu"))
    sampler = BatchSampler(TokenDataset(data), 8, 32, seed=config.seed)
    for step in (0, 7, 10**6):
        for x, y in zip(batches.batch(step), sampler.batch(step), strict=True):
            assert torch.equal(x, y)


def test_ids_without_dataset_json_are_of_the_given_tokenizer(
    run_train: Callable[..., Run],
    tmp_path: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        rng.integers(0, 256, 4000).astype("<u2").tofile(bare / f"{split}.bin")
    with pytest.raises(InputError, match="--tokenizer"):
        run_train("refused", "--data", str(bare))
    run = run_train("run", "--data", str(bare), "--tokenizer", "bytes")
    assert len(losses(run_train("run", "--resume", "--max-steps", "9"))) == 9
    for flags in ([], ["--data", str(bare), "--tokenizer", "bytes"]):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["eval", str(run.path), "--json", *flags])
        eval_command.main()
        assert json.loads(capsys.readouterr().out)["tokens"] == 3999
