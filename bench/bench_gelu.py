"""Bias + GELU, bias gradient included, beside the speed of memory.

Run: ``python bench/bench_gelu.py``, or ``python -m pytest --benchmark-enable bench/bench_gelu.py``.

The rate counts what must be read and written: activations and their gradients. Liger-Kernel has no
GELU without a gate, so it is not measured here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lib import common
from lib.interleaved import Call
from torch import Tensor

from pygpt import ops

WIDTHS = (4 * 384, 4 * 768, 4 * 1600)
DTYPE = torch.bfloat16
IMPLS = ("triton", "eager", "torch.compile")
TRAFFIC = {"forward": 2, "backward": 3, "both": 5}
"""Activations that each call moves, in tensors of (rows, width): x, y; dy, x, dx."""


def _implementation(impl: str) -> Callable[..., Tensor]:
    def eager(x: Tensor, bias: Tensor) -> Tensor:
        return F.gelu(x + bias, approximate="tanh")

    def triton(x: Tensor, bias: Tensor) -> Tensor:
        return ops.gelu(x, bias, impl="triton")

    if impl == "torch.compile":
        return common.compiled(eager, "gelu")
    return {"triton": triton, "eager": eager}[impl]


def _make(impl: str, direction: str, width: int) -> Call:
    x = torch.randn(common.rows(width), width, device=common.DEVICE, dtype=DTYPE)
    bias = torch.randn(width, device=common.DEVICE, dtype=DTYPE)
    return common.training_call(_implementation(impl), [x, bias], direction)


def cases() -> Iterator[common.Case]:
    """Every width, direction and implementation."""
    for width in WIDTHS:
        rows = common.rows(width)
        for direction in common.DIRECTIONS:
            for impl in IMPLS:
                yield common.Case(
                    op="gelu",
                    direction=direction,
                    impl=impl,
                    shape=f"{rows}×{width}",
                    make=functools.partial(_make, impl, direction, width),
                    bytes=TRAFFIC[direction] * rows * width * DTYPE.itemsize,
                )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_gelu(benchmark: Any, case: common.Case) -> None:
    """One case under pytest-benchmark."""
    common.run_in_pytest(benchmark, case)


if __name__ == "__main__":
    common.run("gelu", __doc__, cases)
