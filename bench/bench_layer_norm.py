"""LayerNorm and residual add + LayerNorm beside the speed of memory.

Run: ``python bench/bench_layer_norm.py``, or
``python -m pytest --benchmark-enable bench/bench_layer_norm.py``.

With the add, dtypes are those of training under autocast: the sublayer's output and the norm in
bf16, the residual stream and the parameters in fp32. The rate counts what must be read and written:
activations and their gradients. Liger-Kernel is measured where it is installed, and has no add +
LayerNorm.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lib import common
from lib.interleaved import Call
from torch import Tensor

from pygpt import ops

WIDTHS = (384, 768, 1600)
DTYPE = torch.bfloat16

# Bytes that each call moves for one element of x, at 2 for bf16 and 4 for fp32.
TRAFFIC = {
    # x, y; dy, x, dx.
    "layer_norm": {"forward": 4, "backward": 6, "both": 10},
    # x, stream, normed, sum; both their gradients, the sum, the gradients of x and of the stream.
    "add_layer_norm": {"forward": 12, "backward": 16, "both": 28},
}


def _implementation(op: str, impl: str) -> Callable[..., Any]:
    def eager_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, weight.shape, weight, bias)

    def eager_add(
        x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        summed = x + residual
        return F.layer_norm(summed, weight.shape, weight, bias).to(x.dtype), summed

    def triton_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.layer_norm(x, weight, bias, impl="triton")

    def triton_add(
        x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ops.add_layer_norm(x, residual, weight, bias, impl="triton")

    def liger_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction

        y: Tensor = LigerLayerNormFunction.apply(x, weight, bias, 1e-5)
        return y

    eager = eager_norm if op == "layer_norm" else eager_add
    if impl == "torch.compile":
        return common.compiled(eager, op)
    triton = triton_norm if op == "layer_norm" else triton_add
    return {"triton": triton, "eager": eager, "liger": liger_norm}[impl]


def _impls(op: str) -> tuple[str, ...]:
    has_liger = op == "layer_norm" and importlib.util.find_spec("liger_kernel") is not None
    return ("triton", "eager", "torch.compile", *(("liger",) if has_liger else ()))


def _make(op: str, impl: str, direction: str, width: int) -> Call:
    inputs = [torch.randn(common.rows(width), width, device=common.DEVICE, dtype=DTYPE)]
    wide = DTYPE
    if op == "add_layer_norm":
        wide = torch.float32
        inputs.append(torch.randn_like(inputs[0], dtype=wide))
    inputs += torch.randn(2, width, device=common.DEVICE, dtype=wide)
    return common.training_call(_implementation(op, impl), inputs, direction)


def cases() -> Iterator[common.Case]:
    """Every operator, width, direction and implementation."""
    for op, traffic in TRAFFIC.items():
        for width in WIDTHS:
            rows = common.rows(width)
            for direction in common.DIRECTIONS:
                for impl in _impls(op):
                    yield common.Case(
                        op=op,
                        direction=direction,
                        impl=impl,
                        shape=f"{rows}×{width}",
                        make=functools.partial(_make, op, impl, direction, width),
                        bytes=traffic[direction] * rows * width,
                    )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_layer_norm(benchmark: Any, case: common.Case) -> None:
    """One case under pytest-benchmark."""
    common.run_in_pytest(benchmark, case)


if __name__ == "__main__":
    common.run("layer_norm", __doc__, cases)
