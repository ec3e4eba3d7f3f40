"""What the kernel benchmarks share: timing, the GPU's own limits, and how results are written.

A benchmark is a list of `Case`; `run` measures them and writes
``bench/results/<gpu>-<date>-<name>.json`` and, where matplotlib is installed, a plot beside it.
Times are taken by CUDA events around one call each, with the L2 cache overwritten before it;
figures are medians with the 20th and 80th percentile. Rates are compared with those of a copy and
of a matrix product on the same GPU, measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lib import report
from lib.interleaved import Call, Spread, in_a_line, peak_bytes
from torch import Tensor

from pygpt.planning import gpu_timing
from pygpt.utils import cli
from pygpt.utils.errors import InputError

DEVICE = "cuda"
DIRECTIONS = ("forward", "backward", "both")
COLUMNS = (
    "op", "direction", "shape", "impl", "ms", "20–80 %", "rate", "of the GPU", "peak MB"
)  # fmt: skip


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
    """Rates of a copy and of a matrix product, to compare kernels with."""

    copy_gb_per_s: float
    gemm_tflop_per_s: float


# --- measuring ------------------------------------------------------------------------------------


def time_call(call: Call, budget_ms: float = 50.0) -> Spread:
    """Milliseconds of a call on the GPU alone; see `pygpt.planning.gpu_timing`."""
    return Spread.of(gpu_timing.milliseconds(call, budget_ms))


def measure_limits() -> Limits:
    """Copy bandwidth (1 GiB read, 1 GiB written) and bf16 matrix product (8192³) of this GPU."""
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


_compiled: dict[Hashable, Callable[..., Any]] = {}


def compiled(op: Callable[..., Any], key: Hashable) -> Callable[..., Any]:
    """`op` under torch.compile, for fixed shapes, with a backward that may run more than once.

    What was compiled for the same `key` and shape is taken again: a direction needs no new one.
    """
    torch._functorch.config.donated_buffer = False
    return _compiled.setdefault(key, torch.compile(op, fullgraph=True, dynamic=False))


def rows(width: int) -> int:
    """Rows of activations of a memory-bound case: 256 MiB in bf16, less on a GPU below 10 GiB.

    That is several times the cache of any GPU, and takes far longer to move than a kernel launch.
    """
    size = 256 << 20
    if torch.cuda.is_available():
        size = min(size, torch.cuda.get_device_properties(DEVICE).total_memory // 40)
    return size // (2 * width) // 128 * 128


# --- running and reporting ------------------------------------------------------------------------


def run(name: str, about: str | None, cases: Callable[[], Iterable[Case]]) -> None:
    """The command of a benchmark: measure every case, print a table, write JSON and a plot.

    Args:
        name: part of the results' file name.
        about: what --help says.
        cases: what to measure.

    Raises:
        SystemExit: always; with status 1 where a case failed or the measuring was stopped, 2 where
            there is no GPU.
    """

    def main() -> None:
        parser = argparse.ArgumentParser(
            description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.parse_args()
        if not torch.cuda.is_available():
            raise InputError(f"{name} measures a CUDA device and this machine has none")
        sys.exit(0 if measure(name, list(cases())) else 1)

    cli.run(main)


def measure(name: str, cases: Sequence[Case]) -> bool:
    """What `run` does once there is a GPU; False where a case failed."""
    limits = measure_limits()
    rows: list[dict[str, Any]] = []
    failures: dict[str, str] = {}

    with report.reporting(lambda: _report(name, limits, rows, failures), failures):
        for case in cases:
            try:
                rows.append(_measure(case, limits))
            # Any exception (a back end that this GPU lacks, no memory, the errors of a compiler,
            # which have no common base): the other cases are measured.
            except Exception as error:
                failures[str(case)] = in_a_line(error)
                print(f"failed: {case}: {failures[str(case)]}", file=sys.stderr)
    return not failures


def _report(
    name: str, limits: Limits, rows: list[dict[str, Any]], failures: dict[str, str]
) -> None:
    device = torch.device(DEVICE)
    path = report.results_path(device, name)
    figures = {"limits": dataclasses.asdict(limits), "results": rows, "failures": failures}
    report.write_json(path, device, figures)
    title = (
        f"{name}: {report.headline(device)}; copy {limits.copy_gb_per_s:.0f} GB/s, "
        f"bf16 GEMM {limits.gemm_tflop_per_s:.0f} TFLOP/s"
    )
    report.print_table(title, COLUMNS, [_cells(row) for row in rows], names=4)
    if rows:
        _plot(title, rows, path.with_suffix(".png"))


def _measure(case: Case, limits: Limits) -> dict[str, Any]:
    call = case.make()
    timing = time_call(call)
    row: dict[str, Any] = {
        "op": case.op,
        "direction": case.direction,
        "shape": case.shape,
        "impl": case.impl,
        "ms": dataclasses.asdict(timing),
        "peak_bytes": peak_bytes(call, torch.device(DEVICE)),
    }
    if case.bytes:
        row["gb_per_s"] = case.bytes / timing.median / 1e6
        row["share"] = row["gb_per_s"] / limits.copy_gb_per_s
    if case.flops:
        row["tflop_per_s"] = case.flops / timing.median / 1e9
        row["share"] = row["tflop_per_s"] / limits.gemm_tflop_per_s
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rate = f"{row['gb_per_s']:.0f} GB/s" if "gb_per_s" in row else ""
    rate = f"{row['tflop_per_s']:.0f} TFLOP/s" if "tflop_per_s" in row else rate
    return (
        *(row[key] for key in ("op", "direction", "shape", "impl")),
        *report.cells(Spread(**row["ms"]), decimals=4),
        rate,
        f"{row['share']:.0%}" if "share" in row else "",
        f"{row['peak_bytes'] / 1e6:.0f}",
    )


def _plot(title: str, rows: list[dict[str, Any]], path: Path) -> None:
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
    figure.suptitle(title, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run_in_pytest(benchmark: Any, case: Case) -> None:
    """One case under pytest-benchmark: wall-clock time of a call, waiting for the GPU."""
    import pytest

    if not torch.cuda.is_available():
        pytest.skip("waits for a CUDA device")
    call = case.make()

    def call_and_wait() -> None:
        call()
        torch.cuda.synchronize()

    benchmark.pedantic(call_and_wait, rounds=50, warmup_rounds=5)
