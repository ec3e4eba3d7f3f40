"""Compilers that make wrong code for a GPU, and what is done about them.

- **sm_90**: a ptxas before 13.3 may overwrite registers that an asynchronous product of a warp
  group still reads (release notes of CUDA 13.3; triton #11781). Triton brings 12.8, and the three
  large kernels of attention have such products. A newer ptxas that is installed is used instead:
  ``pip install "pygpt-trainer[hopper]"``. Without one a warning says so.
- **sm_89**: Triton 3.6 makes code that a ptxas before 13.0 translates wrongly; 3.7 works around it
  (triton #9756). Triton 3.6 is refused there.

``bench/aot_report.py`` and ``pygpt.tune`` look for the first in what was compiled
(`pygpt.planning.sass`).
"""

import functools
import logging
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

PACKAGE = "nvidia-cuda-nvcc"
"""The distribution that brings a newer ptxas."""
RIGHT_ON_SM_90 = (13, 3)
RIGHT_ON_SM_89 = (13, 0)

Version = tuple[int, int]


def prepare(capability: int) -> None:
    """Choose the ptxas of this process for a GPU, and refuse compilers that are wrong for it.

    Args:
        capability: 10 · major + minor of the GPU's compute capability.

    Raises:
        ValueError: Triton 3.6 on sm_89.
    """
    if capability == 90:
        _use_right_ptxas()
    elif capability == 89 and _version_of("triton") < (3, 7) and ptxas()[1] < RIGHT_ON_SM_89:
        raise ValueError(
            f"Triton {metadata.version('triton')} makes wrong code for sm_89 (triton #9756); "
            "install triton>=3.7, or take impl='eager'"
        )


def _use_right_ptxas() -> None:
    path, version = ptxas()
    named = "TRITON_PTXAS_PATH" in os.environ  # by the user, who has the last word
    if version < RIGHT_ON_SM_90 and not named and (newer := installed_ptxas()):
        os.environ["TRITON_PTXAS_PATH"] = str(newer)
        forget_version()
        path, version = ptxas()
    about = f"ptxas {version[0]}.{version[1]} ({path}) compiles the Triton kernels"
    if version < RIGHT_ON_SM_90:
        _log_once(
            logging.WARNING,
            f"{about}; before 13.3 it may overwrite registers that a product of a warp group still "
            'reads, with wrong results: pip install "pygpt-trainer[hopper]" brings a newer one, '
            "which needs a driver of CUDA 13",
        )
    else:
        _log_once(logging.INFO, about)


@functools.cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, message)


def ptxas() -> tuple[str, Version]:
    """The ptxas that Triton calls: its path and version."""
    from triton import knobs

    tool = knobs.nvidia.ptxas
    return tool.path, _parse(tool.version)


def installed_ptxas() -> Path | None:
    """The ptxas of `PACKAGE`; None where it is missing, too old, or too new for the driver."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = [file.locate() for file in files if file.name == "ptxas"]
    if not found:
        return None
    path = Path(str(found[0]))
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+\.\d+)", said)
    version = _parse(release[1]) if release else (0, 0)
    # A driver runs what compilers of its own major version of CUDA make.
    return path if version >= RIGHT_ON_SM_90 and version[0] <= _cuda_of_driver() else None


@functools.cache
def _cuda_of_driver() -> int:
    """The major version of CUDA that the driver runs; the newest where there is none to ask."""
    if not torch.cuda.is_available():
        return 99
    version: int = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    return version // 1000


def forget_version() -> None:
    """After another ptxas was chosen: Triton remembers its version, and keys its cache by it."""
    from triton.backends.nvidia import compiler

    compiler.get_ptxas_version.cache_clear()


def _version_of(package: str) -> Version:
    return _parse(metadata.version(package))


def _parse(text: str) -> Version:
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)
