"""What dispatching one registered operator costs the CPU, by the way it is registered.

    python bench/bench_host_time.py

The operators do nothing but allocate their result. Forward and backward, microseconds a call,
interleaved. A step of a small model on a fast GPU waits for this; `docs/kernels-on-paper.md` has
the arithmetic.

- ``custom_op``: `torch.library.custom_op` and its `register_autograd`;
- ``pygpt.kernels.registration``: as pygpt's operators are;
- ``Function``: a `torch.autograd.Function` alone, which torch.compile would trace into;
- ``relu``: an operator of PyTorch's own, in place of a lower bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from lib import report
from lib.interleaved import Interleaved, Spread
from torch import Tensor

from pygpt.kernels.registration import differentiable, operator

CALLS = 200


@dataclasses.dataclass(frozen=True)
class Options:
    """What dispatching one registered operator costs the CPU."""

    rounds: int = 30
    """How often each is timed, 200 calls at a time."""
    json: Path | None = None
    """Where to write the results."""


# --- the ways -------------------------------------------------------------------------------------


@torch.library.custom_op("pygpt_bench::custom", mutates_args=())
def _custom(x: Tensor) -> Tensor:
    return _like(x)


@_custom.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("pygpt_bench::custom_backward", mutates_args=())
def _custom_backward(dy: Tensor, x: Tensor) -> Tensor:
    return _like(x)


_custom.register_autograd(
    lambda ctx, dy: _custom_backward(dy, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@operator("bench_host_time")
def _ours(x: Tensor) -> Tensor:
    return _like(x)


@operator("bench_host_time_backward")
def _ours_backward(dy: Tensor, x: Tensor) -> Tensor:
    return _like(x)


differentiable(
    _ours,
    lambda ctx, dy: _ours_backward(dy, *ctx.saved_tensors),
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _like(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return _like(x)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "custom_op": torch.ops.pygpt_bench.custom.default,
    "pygpt.kernels.registration": _ours,
    "Function": _Function.apply,
    "relu": torch.relu,
}


def _call(way: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> Callable[[], None]:
    def call() -> None:
        for _ in range(CALLS):
            torch.autograd.grad(way(x), x, dy)

    return call


def measure(rounds: int) -> dict[str, Spread]:
    """Microseconds of a forward and a backward, by the way of registration."""
    x, dy = torch.randn(4, requires_grad=True), torch.randn(4)
    timer = Interleaved({n: _call(w, x, dy) for n, w in WAYS.items()}, torch.device("cpu"))
    timer.run(rounds)
    return {
        name: Spread.of(1e6 * seconds / CALLS for seconds in each)
        for name, each in timer.seconds.items()
    }


def main(options: Options) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    timings = measure(options.rounds)
    device = torch.device("cpu")
    report.print_table(
        f"one operator, forward and backward; {report.headline(device)}",
        ["", "µs", "20–80 %"],
        [[name, *report.cells(spread)] for name, spread in timings.items()],
    )
    if options.json:
        results = {name: dataclasses.asdict(spread) for name, spread in timings.items()}
        report.write_json(options.json, device, {"microseconds": results})


if __name__ == "__main__":
    main(tyro.cli(Options))
