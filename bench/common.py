"""What the kernel benchmarks share: timing, the card's own limits, and how results are kept.

A benchmark is a list of `Case`; `main` measures them and writes
``bench/results/<card>-<date>-<name>.json`` and, where matplotlib is installed, a plot beside it.
Times are taken by CUDA events around one call each, with the L2 cache overwritten before it;
figures are medians with the 20th and 80th percentile. Rates stand beside what the same card reaches
in a copy and in a matrix product, measured in the same run.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from interleaved import Call, Timing
from rich.console import Console
from rich.table import Table
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
DEVICE = "cuda"
DIRECTIONS = ("forward", "backward", "both")


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to time."""

    op: str
    direction: str
    impl: str
    shape: str
    make: Callable[[], Call]
    """Allocates the operands and returns the call to time."""
    bytes: int = 0
    """What the call must read and write at the least; 0 if it is bound by arithmetic."""
    flops: int = 0

    def __str__(self) -> str:
        return f"{self.op}-{self.direction}-{self.shape}-{self.impl}".replace(" ", "-")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the card reaches at its simplest: the rates that a kernel is held against."""

    copy_gb_per_s: float
    gemm_tflop_per_s: float


# --- measuring ------------------------------------------------------------------------------------


def time_call(call: Call, budget_ms: float = 50.0) -> Timing:
    """Time single calls until they add up to about `budget_ms`, 10 to 200 of them."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    flush = torch.empty(4 * cache, dtype=torch.int8, device=DEVICE)
    for _ in range(3):  # compiles, and gives the first estimate
        estimate = _one_call(call, flush)
    calls = max(10, min(200, int(budget_ms / max(estimate, 1e-3))))
    times = sorted(_one_call(call, flush) for _ in range(calls))
    low, high = (times[int(share * (calls - 1))] for share in (0.2, 0.8))
    return Timing(statistics.median(times), low, high, calls)


def _one_call(call: Call, flush: Tensor) -> float:
    start, end = _timing_event(), _timing_event()
    flush.zero_()
    # About half a millisecond of idling on the card, in which Python launches the call: what is
    # timed is the card alone.
    torch.cuda._sleep(1_000_000)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def peak_megabytes(call: Call) -> float:
    """Memory that one call needs beyond what is already allocated."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before) / 2**20


def measure_limits() -> Limits:
    """Copy bandwidth (1 GiB read, 1 GiB written) and bf16 matrix product (8192³) of this card."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    copy = time_call(lambda: target.copy_(source)).median
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    gemm = time_call(lambda: a @ b, 100.0).median
    return Limits(2 * source.nbytes / copy / 1e6, 2 * 8192**3 / gemm / 1e9)


def training_call(
    op: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], direction: str
) -> Call:
    """A call of `op` as in training: its forward, its backward alone, or both.

    Args:
        op: the operator.
        inputs: operands; all of them get gradients.
        direction: one of `DIRECTIONS`.
    """
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = op(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    upstream = [torch.randn_like(y) for y in outputs]
    if direction == "forward":
        return lambda: op(*leaves)
    if direction == "backward":
        return lambda: torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)

    def both() -> object:
        results = op(*leaves)
        return torch.autograd.grad(results, leaves, upstream)

    return both


def compiled(op: Callable[..., Any]) -> Callable[..., Any]:
    """`op` under torch.compile, for fixed shapes, with a backward that may run more than once."""
    torch._functorch.config.donated_buffer = False
    torch._dynamo.reset()
    return torch.compile(op, fullgraph=True, dynamic=False)


# --- running and reporting ------------------------------------------------------------------------


def main(name: str, cases: Sequence[Case]) -> int:
    """Measure every case, print a table, write JSON and a plot; 2 where there is no card."""
    if not torch.cuda.is_available():
        print(f"{name} measures a CUDA device and this machine has none", file=sys.stderr)
        return 2
    measure(name, cases)
    return 0


def measure(name: str, cases: Sequence[Case]) -> None:
    """What `main` does once there is a card."""
    limits = measure_limits()
    rows = [_measure(case, limits) for case in cases]
    machine = describe_machine()
    _print(name, machine, limits, rows)
    RESULTS.mkdir(parents=True, exist_ok=True)
    card = machine["card"].replace("NVIDIA", "").strip().replace(" ", "-").lower()
    path = RESULTS / f"{card}-{machine['date'][:10]}-{name}.json"
    results = {"machine": machine, "limits": dataclasses.asdict(limits), "results": rows}
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    _plot(name, machine, rows, path.with_suffix(".png"))
    print(f"wrote {path}")


def _measure(case: Case, limits: Limits) -> dict[str, Any]:
    call = case.make()
    timing = time_call(call)
    row: dict[str, Any] = {
        "op": case.op,
        "direction": case.direction,
        "shape": case.shape,
        "impl": case.impl,
        "ms": dataclasses.asdict(timing),
        "peak_mb": peak_megabytes(call),
    }
    if case.bytes:
        row["gb_per_s"] = case.bytes / timing.median / 1e6
        row["share"] = row["gb_per_s"] / limits.copy_gb_per_s
    if case.flops:
        row["tflop_per_s"] = case.flops / timing.median / 1e9
        row["share"] = row["tflop_per_s"] / limits.gemm_tflop_per_s
    return row


def describe_machine() -> dict[str, str]:
    """The card, the software and the time: what a figure means nothing without."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "memory_gib": f"{properties.total_memory / 2**30:.1f}",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": triton.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _print(name: str, machine: dict[str, str], limits: Limits, rows: list[dict[str, Any]]) -> None:
    table = Table(
        title=f"{name} on {machine['card']}: copy {limits.copy_gb_per_s:.0f} GB/s, "
        f"bf16 GEMM {limits.gemm_tflop_per_s:.0f} TFLOP/s"
    )
    for column in ("op", "direction", "shape", "impl"):
        table.add_column(column)
    for column in ("µs", "20–80 %", "rate", "of the card", "peak MB"):
        table.add_column(column, justify="right")
    for row in rows:
        ms = row["ms"]
        rate = f"{row['gb_per_s']:.0f} GB/s" if "gb_per_s" in row else ""
        rate = f"{row['tflop_per_s']:.0f} TFLOP/s" if "tflop_per_s" in row else rate
        table.add_row(
            *(row[key] for key in ("op", "direction", "shape", "impl")),
            f"{1e3 * ms['median']:.1f}",
            f"{1e3 * ms['low']:.1f}–{1e3 * ms['high']:.1f}",
            rate,
            f"{100 * row['share']:.0f} %" if "share" in row else "",
            f"{row['peak_mb']:.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _plot(name: str, machine: dict[str, str], rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'pygpt-trainer[bench]')")
        return
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = sorted({(row["op"], row["direction"]) for row in rows})
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(10, 2.6 * len(groups)), squeeze=False, layout="constrained"
    )
    for axis, group in zip(axes[:, 0], groups, strict=True):
        chosen = [row for row in rows if (row["op"], row["direction"]) == group]
        shapes = list(dict.fromkeys(row["shape"] for row in chosen))
        impls = list(dict.fromkeys(row["impl"] for row in chosen))
        for i, impl in enumerate(impls):
            bars = [row for row in chosen if row["impl"] == impl]
            positions = [shapes.index(row["shape"]) + 0.8 * i / len(impls) for row in bars]
            medians = [row["ms"]["median"] for row in bars]
            spread = [
                [row["ms"]["median"] - row["ms"]["low"] for row in bars],
                [row["ms"]["high"] - row["ms"]["median"] for row in bars],
            ]
            axis.bar(positions, medians, 0.8 / len(impls), yerr=spread, label=impl, align="edge")
        axis.set_xticks([i + 0.4 for i in range(len(shapes))], shapes)
        axis.set_ylabel("ms")
        axis.set_title(" ".join(group))
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{name}, {machine['card']}, {machine['date'][:10]}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run_in_pytest(benchmark: Any, case: Case) -> None:
    """One case under pytest-benchmark: wall-clock time of a call, waiting for the card."""
    import pytest

    if not torch.cuda.is_available():
        pytest.skip("waits for a CUDA device")
    call = case.make()

    def call_and_wait() -> None:
        call()
        torch.cuda.synchronize()

    benchmark.pedantic(call_and_wait, rounds=50, warmup_rounds=5)
