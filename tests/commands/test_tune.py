"""Tuning, with a stand-in for the clock: what is tried, what wins, what is refused."""

from __future__ import annotations

import collections
import dataclasses
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pygpt import tune
from pygpt.config.tune import TuneConfig
from pygpt.kernels import launch
from pygpt.planning import gpu_timing, tuning
from pygpt.utils.errors import InputError
from tests.helpers.parity import DEVICE

SMALL = TuneConfig(head_size=16, width=32, positions=8, batch=1, vocab=100, dtype="float16")


def test_every_kernel_is_tried_and_the_fastest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = launch.Launch(64, 32, 8, 3)
    tried: dict[launch.Key, set[launch.Launch]] = {}

    def clock(key: launch.Key, entry: launch.Launch, call: tuning.Call) -> float:
        if key not in tried:
            call()  # the built-in entry first: the call must run
        tried.setdefault(key, set()).add(entry)
        return 1.0 if entry == best else 2.0

    monkeypatch.setattr(tuning, "_milliseconds", clock)
    *so_far, winners = [dict(each) for each in tuning.tune(SMALL, DEVICE, math.inf)]
    launch.use_table(None)

    assert len(so_far) == 9
    assert list(so_far[1].values()) == [best] * 2  # the table after two operators
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

    def clock(key: launch.Key, entry: launch.Launch, call: tuning.Call) -> float:
        nonlocal now
        now += 1.0
        tried.append(key)
        return 1.0

    monkeypatch.setattr(tuning, "_milliseconds", clock)
    monkeypatch.setattr(tuning, "time", types.SimpleNamespace(monotonic=lambda: now))
    assert not any(tuning.tune(SMALL, DEVICE, end=50.0))
    launch.use_table(None)
    counts = collections.Counter(tried)
    assert len(counts) == 10
    assert all(4 <= count <= 7 for count in counts.values()), counts


def test_no_operator_is_begun_after_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0

    def clock(key: launch.Key, entry: launch.Launch, call: tuning.Call) -> float:
        nonlocal now
        now += 100.0
        return 1.0

    monkeypatch.setattr(tuning, "_milliseconds", clock)
    monkeypatch.setattr(tuning, "time", types.SimpleNamespace(monotonic=lambda: now))
    assert list(tuning.tune(SMALL, DEVICE, end=50.0)) == [{}]
    assert "the time is over: attention_dkdv, " in capsys.readouterr().out


@pytest.fixture
def key() -> Iterator[launch.Key]:
    yield launch.Key("sm_90", "gelu_forward", 0, 16)
    launch.use_table(None)


def test_a_configuration_that_does_not_compile_never_wins(
    key: launch.Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared memory, ptxas, and a pass of Triton's compiler: each has its own exception."""
    from triton.runtime.errors import OutOfResources, PTXASError

    errors: Iterator[BaseException] = iter(
        (
            OutOfResources(2, 1, "shared memory"),
            PTXASError("registers"),
            RuntimeError("PassManager::run failed"),
            IndexError("map::at"),
            KeyboardInterrupt(),
        )
    )

    def milliseconds(call: tuning.Call) -> list[float]:
        raise next(errors)

    monkeypatch.setattr(gpu_timing, "milliseconds", milliseconds)
    for _ in range(4):
        assert tuning._milliseconds(key, launch.TABLE[key], list) == math.inf
    with pytest.raises(KeyboardInterrupt):
        tuning._milliseconds(key, launch.TABLE[key], list)


def test_a_gpu_that_is_lost_ends_tuning(key: launch.Key, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> list[float]:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_timing, "milliseconds", lost)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        tuning._milliseconds(key, launch.TABLE[key], list)


@pytest.mark.parametrize(("overwritten", "expected"), [([], 2.0), (["R4 at 0010"], math.inf)])
def test_code_that_overwrites_operands_never_wins(
    overwritten: list[str],
    expected: float,
    key: launch.Key,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from triton import knobs

    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(b"code")

    def milliseconds(call: tuning.Call) -> list[float]:
        knobs.compilation.listener(metadata_group={"kernel.cubin": str(cubin)}, src=None)
        return [2.0]

    monkeypatch.setattr(gpu_timing, "milliseconds", milliseconds)
    monkeypatch.setattr(tuning.sass, "disassemble", lambda code: code.decode())
    monkeypatch.setattr(
        tuning.sass, "overwritten_operands", lambda text: overwritten if text == "code" else []
    )
    assert tuning._milliseconds(key, launch.TABLE[key], list) == expected
    assert knobs.compilation.listener is None


def test_the_fastest_that_is_right_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results of the fastest are changed, those of the second change from call to call."""
    wrong, random, right = (launch.Launch(8, 128, warps, programs=368) for warps in (1, 2, 8))
    times = {wrong: 1.0, random: 2.0, right: 3.0}
    in_use = launch.TABLE[launch.Key("sm_89", "gelu_backward", 0, 16)]
    original = tuning._trials

    def trials(config: TuneConfig, device: torch.device) -> Iterator[tuning.Trial]:
        (trial,) = (trial for trial in original(config, device) if trial.op == "gelu_backward")

        def results(impl: str, wide: bool) -> list[torch.Tensor]:
            found = trial.results(impl, wide)
            if impl == "triton" and in_use == wrong:
                found[1] += 0.1
            if impl == "triton" and in_use == random:
                found[0] += 1e-3 * torch.rand_like(found[0])
            return found

        yield dataclasses.replace(trial, results=results)

    def use_entries(entries: dict[launch.Key, launch.Launch], source: str) -> None:
        nonlocal in_use
        (in_use,) = entries.values()

    monkeypatch.setattr(tuning, "_trials", trials)
    monkeypatch.setattr(tuning, "_candidates", lambda *_: iter(times))
    monkeypatch.setattr(tuning, "_milliseconds", lambda key, entry, call: times.get(entry, 9.0))
    monkeypatch.setattr(launch, "use_entries", use_entries)
    (winners,) = tuning.tune(SMALL, DEVICE, math.inf)
    assert list(winners.values()) == [right]
    said = capsys.readouterr().out
    assert "takes 1.000 ms and is not taken: its error is 1.0e-01" in said
    assert "takes 2.000 ms and is not taken: the same call twice gives other bits" in said


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card")


@pytest.mark.usefixtures("a_card")
def test_stopping_loses_no_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, key = launch.Launch(64, 32, 8, 3), launch.Key("sm_89", "attention_dq", 64, 16)

    def stopped(*_: object) -> Iterator[dict[launch.Key, launch.Launch]]:
        yield {key: best}
        raise KeyboardInterrupt

    monkeypatch.setattr(tune.cli, "parse", lambda *args, **kwargs: TuneConfig())
    monkeypatch.setattr(tuning, "tune", stopped)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        tune.main()
    launch.use_table(tmp_path / "pygpt" / "launch-A-Card.json")
    assert launch._tuned == {key: best}
    launch.use_table(None)


@pytest.mark.usefixtures("a_card")
def test_a_place_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    config = TuneConfig(out=tmp_path / "file" / "table.json")
    monkeypatch.setattr(tune.cli, "parse", lambda *args, **kwargs: config)
    with pytest.raises(InputError, match="can't be written to .*table.json .*--out"):
        tune.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seconds 0", "--seconds 0.0: must be above 0"),
        ("--head-size 0", "--head-size must be above 0, not 0"),
        ("--vocab -1", "--vocab must be above 0, not -1"),
        ("--width 100", "--width 100 is not a multiple of --head-size 64"),
        ("", "tuning measures a CUDA device, and this machine has none"),
    ],
)
def test_refusals(words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", *words.split()])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((InputError, SystemExit)) as raised:
        tune.main()
    assert message in str(raised.value)
