"""Invalid input, shown to the user without a traceback."""

import re
import sys


class InputError(ValueError):
    """Invalid input.

    The message names the value, what would be accepted and what to do next. Commands print it
    without a traceback and exit with status 2.
    """


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that is not an unsigned 64-bit integer."""
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must be in 0 to 2**64 - 1, got {seed}")


def check_device(name: str) -> None:
    """Raise InputError for a device that can't be here, whatever PyTorch finds; needs no torch."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"there is no device {name!r}; try auto, cpu, cuda or cuda:1")
    if name == "mps" and sys.platform != "darwin":
        raise InputError("device 'mps' is a Mac's GPU, and this is no Mac; try auto or cpu")
