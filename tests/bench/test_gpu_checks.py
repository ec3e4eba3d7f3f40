"""The scripts that compare bits on a GPU, without one: kernel_bits, check_training, host time."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.usefixtures("common")


@pytest.fixture
def kernel_bits(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("kernel_bits")
    monkeypatch.setattr(module, "DTYPES", (torch.float32,))
    return module


def test_kernel_bits_names_every_kernel(kernel_bits: ModuleType) -> None:
    names = [name for name, *_ in kernel_bits.cases(small=True)]
    assert names == [
        "attention", "attention with dropout", "add_layer_norm", "gelu", "linear_cross_entropy",
        "decode_attention",
    ]  # fmt: skip


def test_kernel_bits_are_a_hash_of_each_result(
    kernel_bits: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.tensor([1.0, 2.0])
    monkeypatch.setattr(
        kernel_bits,
        "cases",
        lambda small: [("double", lambda x: 2 * x, [x]), ("decode_attention", torch.neg, [x])],
    )
    assert kernel_bits.main(device="cpu") == 0
    first = capsys.readouterr().out
    assert [line.partition(":")[0] for line in first.splitlines()] == [
        "double, output, float32",
        "double, gradient 1, float32",
        "decode_attention, output, float32",
    ]
    x[1] = torch.nextafter(x[1], torch.tensor(3.0))
    kernel_bits.main(device="cpu")
    changed = capsys.readouterr().out
    assert all(a != b for a, b in zip(first.splitlines(), changed.splitlines(), strict=True))


def test_kernel_bits_that_differ_are_status_1(
    kernel_bits: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        kernel_bits,
        "cases",
        lambda small: [("noise", lambda x: x + torch.rand(2), [torch.ones(2)])],
    )
    assert kernel_bits.main(device="cpu") == 1
    assert "noise, output, float32: the same call twice differs" in capsys.readouterr().err


# --- check_training -------------------------------------------------------------------------------


@pytest.mark.parametrize(("resumed", "status"), [("2.5", 0), ("2.5000000000000004", 1)])
def test_a_resumed_run_with_other_bits_is_status_1(
    resumed: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check = importlib.import_module("check_training")

    def train(options: object, out: Path, *flags: str, stop: bool = False) -> list[str]:
        if "--offload-optimizer" in flags:
            raise RuntimeError("no room")
        return ["3.0", resumed if stop and "True" in flags else "2.5"]

    monkeypatch.setattr(check, "train", train)
    options = check.Options(device="cpu", json=tmp_path / "out.json")
    assert check.main(options) == 1  # of the run that failed
    written = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert written["losses"]["pygpt"] == ["3.0", "2.5"]
    assert written["failures"].pop("offloaded") == "no room"
    expected = {"stopped and resumed, compiled": "other bits than without a stop"}
    assert written["failures"] == (expected if status else {})
    assert "eager" in capsys.readouterr().out
    monkeypatch.setattr(check, "train", lambda *args, **options: train(*args[:2], **options))
    assert check.main(options) == 0


# --- bench_host_time ------------------------------------------------------------------------------


def test_host_time_of_every_way() -> None:
    bench = importlib.import_module("bench_host_time")
    for way in bench.WAYS.values():
        x = torch.ones(4, requires_grad=True)
        (gradient,) = torch.autograd.grad(way(x), x, torch.ones(4))
        assert gradient.shape == x.shape
    bench.CALLS = 2
    timings = bench.measure(rounds=2)
    assert list(timings) == list(bench.WAYS)
    assert all(spread.median > 0 for spread in timings.values())
