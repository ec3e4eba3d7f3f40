"""The head and its loss, forward and backward, beside everything else that computes them.

Run: ``python bench/bench_linear_cross_entropy.py`` (``--help`` for the sizes), on a CPU or a GPU.

The three GEMMs alone (x·Wᵀ, dx, dW, by the same chunks, into memory that is there) are what no
implementation can pass; "of GEMMs" is their time over an implementation's, in the same run.
bf16 means fp32 weights and bf16 GEMMs, by autocast, or by casts where autocast does not reach.
"torch chunked" is `torch.nn.functional.linear_cross_entropy` (torch ≥ 2.13), with its own choice of
chunk and with ours; Liger-Kernel joins on a GPU where it is installed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from lib import interleaved, report
from lib.emulated import left_out
from torch import Tensor

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.ops.chunked_cross_entropy import chunk_tokens, gpu_memory
from pygpt.planning.hardware import keep_freed_memory, pick_device
from pygpt.utils import cli

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the head and its loss against its rivals."""

    device: str = "auto"
    tokens: int = 0
    """Tokens of a call; 0 means 2,048 on a CPU and 8,192 on a GPU."""
    widths: tuple[int, ...] = (384, 768)
    vocab: int = GPTConfig.vocab_size
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("bfloat16", "float32")
    rounds: int = 9
    skip: tuple[str, ...] = ()
    """Rivals to leave out, by how their names begin."""
    default_malloc: bool = False
    """On a CPU: leave the C library as it is, which gives large blocks back after each use."""
    json: Path | None = None
    """File for the results."""


def _rivals(
    options: Options, device: torch.device, tokens: int, dtype: torch.dtype
) -> dict[str, Loss]:
    """Name → loss(x, weight, targets), with fp32 weights and GEMMs in `dtype`."""

    def by_autocast(impl: str) -> Loss:
        def loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                return ops.linear_cross_entropy(x, weight, targets, impl=impl)

        return loss

    ours = "triton" if device.type == "cuda" else "native"
    rivals = {
        f"pygpt ({ours})": by_autocast(ours),
        "eager": by_autocast("eager"),
        "torch.compile": torch.compile(by_autocast("eager"), dynamic=False),
    }
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        chunk = chunk_tokens(tokens, options.vocab, dtype.itemsize, device.type, gpu_memory(device))
        for name, settings in {
            f"torch chunked, {chunk} tokens": torch.nn.LinearCrossEntropyOptions(
                batch_chunk_size=chunk
            ),
            "torch chunked, its choice": torch.nn.LinearCrossEntropyOptions(),
        }.items():
            rivals[name] = functools.partial(_torch_chunked, dtype, settings)
    if device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        rivals["Liger-Kernel"] = lambda x, weight, targets: liger(
            weight.to(dtype), x.to(dtype), targets
        )
    return {
        name: loss
        for name, loss in rivals.items()
        if not any(name.startswith(prefix) for prefix in options.skip)
    }


def _torch_chunked(
    dtype: torch.dtype, settings: Any, x: Tensor, weight: Tensor, targets: Tensor
) -> Tensor:
    loss: Tensor = F.linear_cross_entropy(x.to(dtype), weight.to(dtype), targets, options=settings)
    return loss


def _training_call(loss: Loss, x: Tensor, weight: Tensor, targets: Tensor) -> interleaved.Call:
    def call() -> None:
        loss(x, weight, targets).backward()  # type: ignore[no-untyped-call]
        x.grad = weight.grad = None  # here, so that the memory of a call includes them

    return call


def _gemms(x: Tensor, weight: Tensor, dtype: torch.dtype) -> interleaved.Call:
    """The three GEMMs of every chunk, into buffers that exist."""
    x, weight = x.detach().to(dtype), weight.detach().to(dtype)
    memory = gpu_memory(x.device)
    chunk = chunk_tokens(len(x), len(weight), dtype.itemsize, x.device.type, memory)
    logits, dx, dweight = x.new_zeros(chunk, len(weight)), torch.empty_like(x), weight.clone()

    def call() -> None:
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            rows = logits[: len(part)]
            torch.mm(part, weight.t(), out=rows)
            torch.mm(rows, weight, out=dx[start : start + chunk])
            torch.mm(rows.t(), part, out=dweight)

    return call


def main(options: Options) -> int:
    """Measure, print a table, and write JSON where asked.

    Returns:
        The exit status: 1 where a rival failed or the measuring was stopped.
    """
    device = pick_device(options.device)
    tokens = options.tokens or (8192 if device.type == "cuda" else 2048)
    kept = not options.default_malloc and device.type == "cpu" and keep_freed_memory()
    skipped = left_out({dtype: dtype for dtype in options.dtypes}, device)
    dtypes = [dtype for dtype in options.dtypes if dtype not in skipped]
    results: list[dict[str, Any]] = []
    failures: dict[str, str] = {}

    def finish() -> None:
        if options.json:
            fields = {"tokens": tokens, "vocab": options.vocab, "keeps_freed_memory": kept}
            measured = {"left_out": skipped, "results": results, "failures": failures}
            report.write_json(options.json, device, {**fields, **measured})
        report.print_table(
            f"head + loss, forward and backward: {tokens} tokens, V = {options.vocab}; "
            f"{report.headline(device)}{', freed memory kept' if kept else ''}",
            ("width", "dtype", "implementation", "ms", "20–80 %", "of GEMMs", "TFLOP/s", "peak MB"),
            [_cells(row) for row in results],
            names=3,
        )
        for name, reason in failures.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)

    with report.reporting(finish, failures):
        for width, dtype in itertools.product(options.widths, dtypes):
            rows, failed = _measure(options, device, tokens, width, dtype)
            results += rows
            failures |= {f"{name}, {width} wide, {dtype}": failed[name] for name in failed}
    return 1 if failures else 0


def _measure(
    options: Options, device: torch.device, tokens: int, width: int, dtype: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row for each rival that works and for the GEMMs; why the others don't."""
    x = torch.randn(tokens, width, device=device, requires_grad=True)
    weight = (torch.randn(options.vocab, width, device=device) * 0.02).requires_grad_()
    targets = torch.randint(options.vocab, (tokens,), device=device)
    rivals = _rivals(options, device, tokens, DTYPES[dtype])
    calls = {name: _training_call(loss, x, weight, targets) for name, loss in rivals.items()}
    gemms = {"GEMMs alone": _gemms(x, weight, DTYPES[dtype])}
    # Whatever a rival raises (no memory, a compiler's errors): the others are measured.
    timer = interleaved.Interleaved({**gemms, **calls}, device, survived=(Exception,))
    timer.run(options.rounds, budget_s=30.0)
    timings = timer.milliseconds()
    peaks = {n: interleaved.peak_bytes(call, device) for n, call in calls.items() if n in timings}
    flops = 3 * 2 * tokens * options.vocab * width
    floor = timings["GEMMs alone"].median
    rows = [
        {
            "width": width,
            "dtype": dtype,
            "implementation": name,
            "ms": dataclasses.asdict(timing),
            "of_gemms": floor / timing.median,
            "tflop_per_s": flops / timing.median / 1e9,
            "peak_bytes": peaks.get(name),
        }
        for name, timing in timings.items()
    ]
    return rows, timer.failures


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(str(row[key]) for key in ("width", "dtype", "implementation")),
        *report.cells(interleaved.Spread(**row["ms"])),
        f"{row['of_gemms']:.0%}",
        f"{row['tflop_per_s']:.2f}",
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
    )


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main(tyro.cli(Options))))
