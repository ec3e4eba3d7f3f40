"""Which device, which number type, which data sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pygpt.planning import hardware
from pygpt.planning.cards import CARDS, named_card
from pygpt.planning.hardware import card_of, pick_device, pick_dtype
from pygpt.utils.errors import InputError

CUDA_1 = torch.device("cuda:1")


def test_the_picked_card_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda size, device: torch.zeros(size))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert pick_device("cuda:1") == CUDA_1
    assert pick_device("cpu") == torch.device("cpu")
    assert current == [CUDA_1]


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_emulated_bf16_does_not_count(
    has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert pick_dtype("auto", CUDA_1, 384) == expected


@pytest.mark.parametrize(
    ("has", "width", "expected"),
    [
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, 64, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True}, 64, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, 63, "float32"),
        ({"architecture": "x86_64", "avx512_f": True, "amx_tile": True}, 768, "float32"),
        ({"architecture": "arm64", "bf16": True}, 768, "float32"),
    ],
)
def test_a_cpu_takes_bf16_for_its_instructions(
    has: dict[str, object], width: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu, width) == expected
    assert pick_dtype("bfloat16", cpu, width) == "bfloat16"
    assert pick_dtype("auto", torch.device("mps"), width) == "float32"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert pick_dtype("auto", cpu, width) == "float32"


@pytest.mark.parametrize(
    ("device", "dtype", "size"),
    [("cpu", "bfloat16", 1024), ("cuda:1", "bfloat16", 8192), ("cuda:1", "float32", 4096)],
)
def test_a_peak_says_which_gemm_was_measured(
    device: str, dtype: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An Unknown Card")
    monkeypatch.setattr(hardware, "gemm_rate", lambda device, dtype, size: 1e12 * size)
    peak = hardware.peak_flops.__wrapped__(torch.device(device), getattr(torch, dtype))
    assert peak.flops == 1e12 * size
    assert peak.source.endswith(f" GEMM of {size}³ measured on this machine")


def test_gemm_rate_counts_operations_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        hardware, "_seconds_of_product", lambda a, b: 0.5 if a.shape == b.shape == (8, 8) else 0.0
    )
    assert hardware.gemm_rate(torch.device("cpu"), torch.float32, 8) == 2 * 8**3 / 0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 4070", "RTX 4070"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti"),
        ("NVIDIA GeForce RTX 5070 Ti", "RTX 5070 Ti"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_card_is_known_by_whole_words(
    name: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    card = card_of(CUDA_1)
    assert (card.name if card else None) == expected
    assert all(named_card(card.name.lower()) is card for card in CARDS)


def test_a_card_is_found_by_its_longest_name() -> None:
    assert named_card("NVIDIA GeForce RTX 4070 Ti SUPER").tflops == 88.2
    assert named_card("rtx 4060 ti 16gb").memory_gib == 16
    for card in CARDS:
        assert named_card(card.name) is card
    with pytest.raises(InputError, match="no data sheet of a GPU 'RTX 9999'; there are RTX 3090"):
        named_card("RTX 9999")


# --- a GPU that can't be used ---------------------------------------------------------------------


def _too_old() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate")


@pytest.mark.parametrize(
    ("cuda", "init", "expected"),
    [
        (None, _too_old, "is built without CUDA"),
        ("13.0", _too_old, "driver on your system is too old (found version 11040)."),
        ("13.0", lambda: None, "CUDA 13.0 finds no device"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_said(
    cuda: str | None,
    init: Callable[[], None],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(hardware, "NVIDIA_DRIVER", tmp_path / "version")
    assert pick_device("auto") == torch.device("cpu")
    assert not caplog.messages  # there is no GPU
    (tmp_path / "version").touch()
    assert pick_device("auto") == torch.device("cpu")
    (message,) = caplog.messages
    assert message.startswith("this machine has an NVIDIA GPU and it can't be used: ")
    assert expected in message
    assert "Update" not in message


def test_segments_of_a_gpu_grow_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", settings.append)
    monkeypatch.setattr(hardware, "pick_device", torch.device)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    hardware.start_device("cuda:1")
    assert settings == ["expandable_segments:True"]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    hardware.start_device("cuda:1")
    assert len(settings) == 1
