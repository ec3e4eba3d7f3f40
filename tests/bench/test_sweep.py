"""bench/sweep.py: which runs it does, and what it makes of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import sweep

from pygpt.utils.errors import InputError


def curve(*losses: float) -> list[dict[str, float]]:
    return [
        {"tokens": 10.0 * i, "seconds": 2.0 * i, "val_loss": loss}
        for i, loss in enumerate(losses, 1)
    ]


def test_only_what_is_new_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(options: sweep.Options, setting: dict[str, str], seed: int) -> dict[str, Any]:
        trained.append((setting["optimizer"], setting["learning_rate"], seed))
        loss = {"adamw": 3.0, "muon": 2.0}[setting["optimizer"]] + 0.1 * seed
        return {"curve": curve(4.0, loss)}

    monkeypatch.setattr(sweep, "_train", train)
    command = ["sweep", "--vary", "optimizer=adamw,muon", "--fix", "learning-rate=1e-3"]
    command += ["--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*command, "--seeds", "1"])
    sweep.main()
    assert trained == [("adamw", "1e-3", 1), ("muon", "1e-3", 1)]
    monkeypatch.setattr("sys.argv", [*command, "--seeds", "2", "--target", "2.5"])
    capsys.readouterr()
    sweep.main()
    assert trained[2:] == [("adamw", "1e-3", 2), ("muon", "1e-3", 2)]
    printed = capsys.readouterr().out
    table = printed.partition("┃")[2]
    assert table.index("muon") < table.index("adamw"), "the best is first"
    # Of two seeds 0.1 apart: a standard deviation of 0.1/√2.
    assert f"noise {0.1 / math.sqrt(2):.4f}" in printed
    assert len(list(tmp_path.glob("stdlib-cpu-*.json"))) == 4


def test_time_to_a_loss_is_read_between_evaluations() -> None:
    assert sweep._seconds_to(curve(4.0, 3.0, 2.0), 2.5) == 5.0
    assert sweep._seconds_to(curve(2.0), 2.5) == 2.0
    assert math.isinf(sweep._seconds_to(curve(4.0, 3.0), 2.5))


@pytest.mark.parametrize("text", ["optimiser=adamw", "optimizer", "optimizer="])
def test_other_fields_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write FIELD=VALUE,VALUE"):
        sweep.Options(vary=(text,)).settings()


def test_a_run_is_kept_as_its_curve(data: Path, tmp_path: Path) -> None:
    shape = ("n_layer=1", "n_embd=16", "n_head=2", "block_size=32", "batch_tokens=256")
    settings = (*shape, "max_steps=4", "eval_interval=2", "eval_tokens=256", "warmup_steps=1")
    options = sweep.Options(preset="shakespeare-char", fix=settings, data=data, out=tmp_path)
    (setting,) = options.settings()
    kept = json.loads(json.dumps(sweep._train(options, setting, 7)))
    assert [point["tokens"] for point in kept["curve"]] == [512, 1024]
    assert kept["curve"][0]["seconds"] < kept["curve"][1]["seconds"]
    assert kept["seed"] == 7
    assert kept["torch"]
    with pytest.raises(InputError, match="max_steps must be above 0"):
        sweep._train(options, setting | {"max_steps": "0"}, 7)
