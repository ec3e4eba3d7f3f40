"""Experiment trackers: what they recorded is read back, and one that fails does not end a run."""

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pygpt.config import TrainConfig
from pygpt.runs.run import Run
from pygpt.training import trackers
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 32 --dropout 0.1
    --batch-tokens 256 --micro-batch 4 --max-steps 4 --warmup-steps 2 --lr-decay-steps 4
    --eval-interval 2 --eval-tokens 256 --checkpoint-interval 4 --device cpu --dtype float32
""".split()


def figures(run: Run) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("step", "tokens")}
        for line in run.read_metrics()
    ]


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, behind seven bytes of wandb.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    block, at, record = 32768, 7, b""
    while at + 7 <= len(log):
        if block - at % block < 7:  # too short for a header
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + 7])
        record += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            yield record
            record = b""


def test_wandb_offline_records_every_step(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = run_train("wandb", "--track", "wandb")
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    history, names = [], []
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            names.append((record.run.project, record.run.display_name))
        if record.HasField("history"):
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            history.append({key: items[key] for key in items if not key.startswith("_")})
    assert names[0] == ("pygpt", "wandb")
    assert history == figures(run)
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(file.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Would sync 1 run" in done.stdout + done.stderr


def test_mlflow_records_every_step(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its own files need no database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run = run_train("mlflow", "--track", "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("pygpt")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["n_embd"] == "16"
    losses = client.get_metric_history(found.info.run_id, "train_loss")
    assert sorted((loss.step, loss.value) for loss in losses) == [
        (line["step"], line["train_loss"]) for line in run.read_metrics()
    ]


def test_trackio_records_every_step(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs trackio")
    run = run_train("trackio", "--track", "trackio")
    with sqlite3.connect(tmp_path / "trackio" / "pygpt.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    assert [step for step, _ in rows] == [1, 2, 3, 4]
    recorded = [json.loads(text)["train_loss"] for _, text in rows]
    assert recorded == [line["train_loss"] for line in figures(run)]


class Failing:
    """A tracker that fails at its start, or at a step."""

    def __init__(self, start: trackers.Start) -> None:
        self.logged: list[int] = []

    def log(self, step: int, figures: Any) -> None:
        self.logged.append(step)
        if step == 2:
            raise ConnectionError("no route to host")

    def close(self) -> None:
        raise AssertionError("a tracker that failed is not called again")


def test_a_tracker_that_fails_at_a_step_is_left_out(
    run_train: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = []

    def start(start: trackers.Start) -> Failing:
        started.append(Failing(start))
        return started[-1]

    monkeypatch.setitem(trackers._TRACKERS, "wandb", start)  # type: ignore[arg-type]
    run = run_train("fails", "--track", "wandb")
    assert len(run.read_metrics()) == 4
    assert started[0].logged == [1, 2]
    text = "wandb failed (ConnectionError: no route to host): the run goes on without it"
    assert [record.message for record in caplog.records].count(text) == 1


def test_a_tracker_that_is_not_installed_is_left_out(
    run_train: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def start(start: trackers.Start) -> Failing:
        raise ModuleNotFoundError("No module named 'trackio'")

    monkeypatch.setitem(trackers._TRACKERS, "trackio", start)  # type: ignore[arg-type]
    run = run_train("missing", "--track", "trackio")
    assert len(run.read_metrics()) == 4
    assert 'pip install "pygpt-trainer[trackio]"' in caplog.text


def test_names_of_trackers() -> None:
    assert TrainConfig(track="wandb, mlflow").trackers == ("wandb", "mlflow")
    assert TrainConfig(track="").trackers == ()
    assert TrainConfig().trackers is None
    with pytest.raises(InputError, match="no tracker 'comet'; there are tensorboard, wandb"):
        TrainConfig(track="comet")
