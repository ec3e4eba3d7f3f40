"""What a CPU without instructions for bf16 is not measured at."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch

from pygpt.planning.hardware import cpu_has_bf16


def left_out(ways: Mapping[str, str], device: torch.device) -> dict[str, str]:
    """Which of these to leave out, each with the reason, which is printed.

    PyTorch emulates GEMMs in bf16 where there are no instructions for them: they take many times as
    long as in fp32, and nobody trains like that.

    Args:
        ways: what would be measured → dtype of its GEMMs.
        device: where.
    """
    if device.type != "cpu" or cpu_has_bf16():
        return {}
    reason = "this CPU has no instructions for bf16 GEMMs, PyTorch emulates them"
    out = {name: reason for name, dtype in ways.items() if dtype == "bfloat16"}
    for name in out:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return out
