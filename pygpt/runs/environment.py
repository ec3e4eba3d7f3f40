"""The machine and the versions that a run used."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pygpt.kernels import toolchain
from pygpt.planning.hardware import device_name

HOLD_BACK = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "PYGPT_CPU_LEVEL",
)
"""Variables that keep libraries from instructions that the CPU has."""


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Machine, versions and time: what a measured figure needs beside it."""
    described: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["architecture"] = f"sm_{properties.major}{properties.minor}"
        described["memory_gib"] = round(properties.total_memory / 2**30, 1)
        if _version_of_triton():
            described["ptxas"] = "{}.{}".format(*toolchain.ptxas()[1])
    else:
        described["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        held = {name: os.environ[name] for name in HOLD_BACK if name in os.environ}
        if held:
            described["held_back_by"] = held
    return described | {
        "threads": torch.get_num_threads(),
        "pygpt": metadata.version("pygpt-trainer"),
        "commit": _git_commit(),
        "torch": torch.__version__,
        "triton": _version_of_triton(),
        "python": platform.python_version(),
    }


def _version_of_triton() -> str | None:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source this runs from; None for an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
