"""Tuning, with a stand-in for the clock: what is tried, what wins, what is refused."""

from __future__ import annotations

import collections
import dataclasses
import types
from pathlib import Path

import pytest
import torch

from pygpt import tune
from pygpt.errors import InputError
from pygpt.kernels import launch
from tests.parity import DEVICE

SMALL = tune.TuneConfig(head_size=16, width=32, positions=8, batch=1, vocab=100, dtype="float16")


def test_every_kernel_is_tried_and_the_fastest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = launch.Launch(64, 32, 8, 3)
    tried: dict[launch.Key, set[launch.Launch]] = {}

    def clock(key: launch.Key, entry: launch.Launch, call: tune.Call) -> float:
        if key not in tried:
            call()  # the built-in entry first: the call must run
        tried.setdefault(key, set()).add(entry)
        return 1.0 if entry == best else 2.0

    monkeypatch.setattr(tune, "_milliseconds", clock)
    winners = dict(tune._tune(SMALL, DEVICE))
    launch.use_table(None)

    architecture = launch.architecture(DEVICE)
    sixteen_bit = {k for k in launch.TABLE if k.architecture == architecture and k.bits == 16}
    assert {key.op for key in tried} == {key.op for key in sixteen_bit}
    assert set(tried) <= sixteen_bit
    assert all(len(entries) > 10 for entries in tried.values())
    assert {key.op for key in winners} == {
        "attention_forward", "attention_dkdv", "attention_dq"
    }  # fmt: skip
    assert set(winners.values()) == {best}

    path = tmp_path / "table.json"
    launch.write_table(path, winners, "here")
    launch.use_table(path)
    assert (
        launch.find("attention_dq", 16, torch.empty(1, device=DEVICE, dtype=torch.float16)) == best
    )
    launch.use_table(None)


def test_little_time_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    tried: list[launch.Key] = []

    def clock(key: launch.Key, entry: launch.Launch, call: tune.Call) -> float:
        nonlocal now
        now += 1.0
        tried.append(key)
        return 1.0

    monkeypatch.setattr(tune, "_milliseconds", clock)
    monkeypatch.setattr(tune, "time", types.SimpleNamespace(monotonic=lambda: now))
    assert not dict(tune._tune(dataclasses.replace(SMALL, seconds=50.0), DEVICE))
    launch.use_table(None)
    counts = collections.Counter(tried)
    assert len(counts) == 10
    assert all(4 <= count <= 7 for count in counts.values()), counts


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tune.TuneConfig(dtype="int8"), "--dtype 'int8' is none of bfloat16"),
        (tune.TuneConfig(seconds=0.0), "--seconds 0.0 is no time to tune in"),
        (tune.TuneConfig(head_size=0), "--head-size must be above 0"),
        (tune.TuneConfig(width=100), "--width 100 is no multiple of --head-size 64"),
        (tune.TuneConfig(), "tuning measures a CUDA device, and this machine has none"),
    ],
)
def test_refusals(config: tune.TuneConfig, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.cli, "parse", lambda *args, **kwargs: config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        tune.main()
