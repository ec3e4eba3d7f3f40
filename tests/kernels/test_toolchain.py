"""The compilers that are chosen or refused for a GPU. No GPU is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from pygpt.kernels import launch, toolchain
from pygpt.ops import dispatch
from pygpt.utils.errors import InputError


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    monkeypatch.setattr(toolchain, "_cuda_of_driver", lambda: 13)
    toolchain._log_once.cache_clear()
    yield
    toolchain.forget_version()


def _install(directory: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out what pip installs of nvidia-cuda-nvcc, with a ptxas that says its version."""
    ptxas = directory / "nvidia/cu13/bin/ptxas"
    ptxas.parent.mkdir(parents=True)
    ptxas.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
    ptxas.chmod(0o755)
    about = directory / "nvidia_cuda_nvcc-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cuda-nvcc\nVersion: 0\n")
    (about / "RECORD").write_text("nvidia/cu13/bin/ptxas,,\n")
    monkeypatch.syspath_prepend(directory)
    return ptxas


def _triton(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: version if name == "triton" else real(name)
    )


def test_sm_90_takes_an_installed_ptxas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed = _install(tmp_path, "13.4", monkeypatch)
    with caplog.at_level(logging.INFO, "pygpt"):
        toolchain.prepare(90)
    assert toolchain.ptxas() == (str(installed), (13, 4))
    assert caplog.messages == [f"ptxas 13.4 ({installed}) compiles the Triton kernels"]


@pytest.mark.parametrize(("version", "driver"), [("13.2", 13), ("13.4", 12)])
def test_sm_90_warns_without_a_right_ptxas(
    version: str,
    driver: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that is too old itself, and one whose code the driver does not run."""
    _install(tmp_path, version, monkeypatch)
    monkeypatch.setattr(toolchain, "_cuda_of_driver", lambda: driver)
    bundled = toolchain.ptxas()
    toolchain.prepare(90)
    assert toolchain.ptxas() == bundled
    (message,) = caplog.messages
    assert f"ptxas {bundled[1][0]}.{bundled[1][1]}" in message
    assert 'pip install "pygpt-trainer[hopper]"' in message


def test_other_gpus_keep_the_bundled_ptxas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _install(tmp_path, "13.4", monkeypatch)
    bundled = toolchain.ptxas()
    for capability in (80, 86, 89, 100, 120):
        toolchain.prepare(capability)
    assert toolchain.ptxas() == bundled
    assert not caplog.messages


def test_triton_3_6_is_refused_on_sm_89_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ptxas", lambda: ("ptxas", (12, 8)))
    _triton("3.6.0", monkeypatch)
    with pytest.raises(ValueError, match=r"Triton 3.6.0 .* sm_89 \(triton #9756\).*triton>=3.7"):
        toolchain.prepare(89)
    toolchain.prepare(80)
    monkeypatch.setattr(toolchain, "ptxas", lambda: ("ptxas", (13, 0)))
    toolchain.prepare(89)
    monkeypatch.setattr(toolchain, "ptxas", lambda: ("ptxas", (12, 8)))
    _triton("3.7.0", monkeypatch)
    toolchain.prepare(89)


def test_what_a_refused_compiler_means(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """impl="auto" is eager and says why; impl="triton" is an error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(toolchain, "ptxas", lambda: ("ptxas", (12, 8)))
    _triton("3.6.0", monkeypatch)
    for cached in (dispatch._why_not_triton, launch.architecture, dispatch.warn_once):
        cached.cache_clear()
    device = torch.device("cuda", 0)
    assert dispatch.select("gelu", "auto", device) == "eager"
    assert "auto' means eager on cuda:0: Triton 3.6.0" in caplog.text
    with pytest.raises(InputError, match="gelu: impl='triton' can't run here: Triton 3.6.0"):
        dispatch.select("gelu", "triton", device)
    for cached in (dispatch._why_not_triton, launch.architecture):
        cached.cache_clear()
