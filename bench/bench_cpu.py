"""What a CPU gains from native ops: the model's ops one by one, and a whole training step.

Run: ``python bench/bench_cpu.py`` (``--help`` for the sizes). The head with its GEMMs has a
benchmark of its own, ``bench_linear_cross_entropy.py``; where the time of a step goes, and nanoGPT
beside it, is ``bench_step.py``'s.

Ops, forward and backward: native ones are timed at every instruction-set level that the CPU runs.
To hold a level against PyTorch on such a machine, put PyTorch on it too:
``ATEN_CPU_CAPABILITY=avx2`` (or ``default``). "of copy" is the time of a copy of as many bytes as
the op must read and write, over the op's. Add + LayerNorm has no native implementation, since the
eager one is within a factor of two of the copy; in fp32, attention has none.

The step: "native" takes the implementations that impl="auto" takes here. bf16 is autocast's.
GFLOP/s counts the model's GEMMs and attention without what its mask leaves out; "of GEMM" is its
share of a GEMM of 2048³ in the same dtype, timed in the same rounds. bf16 is left out, and that is
said, on a CPU that only emulates it.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import bench_step
import torch
import torch.nn.functional as F
import tyro
from lib import common, interleaved, report
from lib.emulated import left_out
from lib.interleaved import Spread
from torch import Tensor

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.ops import native
from pygpt.ops.attention import attention_native
from pygpt.ops.gelu import gelu_native
from pygpt.planning.hardware import keep_freed_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")
Op = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the model's ops and its training step on this CPU."""

    tables: tuple[Literal["ops", "step"], ...] = ("ops", "step")
    tokens: int = 2048
    """Tokens of a call, and of a step."""
    block_size: int = 512
    n_layer: int = 6
    """Of the step."""
    widths: tuple[int, ...] = (384, 768)
    """The step takes the first."""
    vocab: int = GPTConfig.vocab_size
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    rounds: int = 15
    json: Path | None = None
    """File for the results."""


@dataclasses.dataclass(frozen=True)
class Case:
    """An op at one size: its implementations, and what it has to move."""

    op: str
    shape: str
    dtype: str
    ways: dict[str, interleaved.Call]
    bytes: int


def _ways(
    eager: Op, inputs: Sequence[Tensor], native: dict[str, Op]
) -> dict[str, interleaved.Call]:
    every = {"eager": eager, "torch.compile": torch.compile(eager, dynamic=False), **native}
    return {name: common.training_call(op, inputs, "both") for name, op in every.items()}


def _gelu(rows: int, width: int, dtype: str) -> Case:
    x, bias = torch.randn(rows, 4 * width).to(DTYPES[dtype]), torch.randn(4 * width)
    by_level: dict[str, Op] = {
        f"native {level}": lambda x, bias, level=level: gelu_native(x, bias, level=level)
        for level in native.levels()
    }
    eager = lambda x, bias: ops.gelu(x, bias, impl="eager")  # noqa: E731
    return Case(
        "gelu", f"{rows}×{4 * width}", dtype, _ways(eager, [x, bias], by_level), 5 * x.nbytes
    )


def _add_layer_norm(rows: int, width: int, dtype: str) -> Case:
    x, residual = torch.randn(rows, width).to(DTYPES[dtype]), torch.randn(rows, width)
    weight, bias = torch.randn(width), torch.randn(width)
    eager = lambda *inputs: ops.add_layer_norm(*inputs, impl="eager")  # noqa: E731
    # x, residual → normed, sum; dnormed, dsum, sum → dx, dresidual.
    moved = 4 * x.nbytes + 5 * residual.nbytes
    ways = _ways(eager, [x, residual, weight, bias], {})
    return Case("add_layer_norm", f"{rows}×{width}", dtype, ways, moved)


def _attention(options: Options, width: int, dtype: str) -> Case:
    sequences = options.tokens // options.block_size
    qkv = torch.randn(sequences, options.block_size, 3 * width).to(DTYPES[dtype])
    eager = lambda qkv: ops.attention(qkv, width // 64, impl="eager")  # noqa: E731
    by_level: dict[str, Op] = {
        f"native {level}": lambda qkv, level=level: attention_native(qkv, width // 64, level=level)
        for level in (native.levels() if dtype == "bfloat16" else ())
    }
    shape = f"{sequences}×{options.block_size}×{width}"
    return Case("attention", shape, dtype, _ways(eager, [qkv], by_level), 0)


def _cross_entropy(rows: int, vocab: int, dtype: str) -> Case:
    """The row kernel alone, over the logits of one chunk."""
    logits = torch.randn(rows, vocab).to(DTYPES[dtype])
    targets = torch.randint(vocab, (rows,))
    loss, lse = torch.empty(2, rows)

    def native(level: str) -> interleaved.Call:
        tile = logits.clone()
        return lambda: native.cross_entropy_rows(
            tile, targets, loss, lse, None,
            ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True, level=level,
        )  # fmt: skip

    eager = lambda logits: F.cross_entropy(logits.float(), targets, reduction="sum")  # noqa: E731
    ways = _ways(eager, [logits], {})
    ways.update({f"native {level}": native(level) for level in native.levels()})
    return Case("cross_entropy_rows", f"{rows}×{vocab}", dtype, ways, 2 * logits.nbytes)


# --- the ops --------------------------------------------------------------------------------------


def ops_table(options: Options) -> list[dict[str, Any]]:
    """Measure and print the ops."""
    results = []
    for dtype in options.dtypes:
        cases = [_cross_entropy(options.tokens // 4, options.vocab, dtype)]
        for width in options.widths:
            cases.append(_gelu(options.tokens, width, dtype))
            cases.append(_add_layer_norm(options.tokens, width, dtype))
            cases.append(_attention(options, width, dtype))
        for case in cases:
            results += _measure(case, options.rounds)
    report.print_table(
        f"ops, forward and backward: {_machine()}",
        ("op", "shape", "dtype", "implementation", "ms", "20–80 %", "of copy"),
        [
            (
                *(row[key] for key in ("op", "shape", "dtype", "implementation")),
                *report.cells(Spread(**row["ms"]), decimals=2),
                "" if row["of_copy"] is None else f"{row['of_copy']:.0%}",
            )
            for row in results
        ],
        names=4,
    )
    return results


def _measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    source = torch.zeros(max(case.bytes // 2, 1), dtype=torch.int8)
    target = torch.zeros_like(source)
    ways = {"copy": lambda: target.copy_(source), **case.ways} if case.bytes else case.ways
    timer = interleaved.Interleaved(ways, CPU)
    timer.run(rounds, budget_s=30.0)
    timings = timer.milliseconds()
    copy = timings.pop("copy", None)
    return [
        {
            "op": case.op,
            "shape": case.shape,
            "dtype": case.dtype,
            "implementation": name,
            "ms": dataclasses.asdict(timing),
            "of_copy": copy.median / timing.median if copy else None,
        }
        for name, timing in timings.items()
    ]


# --- the step -------------------------------------------------------------------------------------


def step_table(options: Options) -> list[dict[str, Any]]:
    """Measure and print the training step."""
    width = options.widths[0]
    config = GPTConfig(
        n_layer=options.n_layer, n_head=width // 64, n_embd=width, bias=False,
        block_size=options.block_size, vocab_size=options.vocab,
    )  # fmt: skip
    results = []
    for dtype in options.dtypes:
        sequences = options.tokens // options.block_size
        bench = bench_step.Bench.of(config, CPU, DTYPES[dtype], sequences)
        results += [{"dtype": dtype, **row} for row in _measure_step(bench, options.rounds)]
    report.print_table(
        f"a training step: {options.n_layer} layers, {width} wide, {options.tokens} tokens, "
        f"V = {options.vocab}: {_machine()}",
        ("dtype", "implementation", "tokens/s", "20–80 %", "GFLOP/s", "of GEMM", "peak MB"),
        [
            (
                row["dtype"],
                row["implementation"],
                *report.cells(Spread(**row["tokens_per_second"]), decimals=0),
                f"{row['gflop_per_s']:,.0f}",
                f"{row['of_gemm']:.0%}",
                f"{row['peak_bytes'] / 1e6:,.0f}",
            )
            for row in results
        ],
        names=2,
    )
    return results


def _measure_step(bench: bench_step.Bench, rounds: int) -> list[dict[str, Any]]:
    """One row for each way to take the step, interleaved with a GEMM."""
    eager, native = bench_step.pygpt_subjects(bench)
    subjects = {
        "eager": eager,
        "compile": bench_step.compiled(eager),
        "native": native,
        "native + compile": bench_step.compiled(native),
    }
    a, b = torch.randn(2, 2048, 2048).to(bench.dtype)
    steps = {name: functools.partial(bench.step, each) for name, each in subjects.items()}
    timer = interleaved.Interleaved({"GEMM": lambda: a @ b, **steps}, CPU)
    timer.run(rounds)
    gemm_rate = 2 * 2048**3 / statistics.median(timer.seconds["GEMM"])
    rows = []
    for name, subject in subjects.items():
        rate = Spread.of(bench.tokens / s for s in timer.seconds[name])
        flops = rate.median * bench.config.flops_per_token(causal=True)
        rows.append(
            {
                "implementation": name,
                "tokens_per_second": dataclasses.asdict(rate),
                "gflop_per_s": flops / 1e9,
                "gemm_gflop_per_s": gemm_rate / 1e9,
                "of_gemm": flops / gemm_rate,
                "peak_bytes": bench_step.peak_bytes(bench, subject),
            }
        )
    return rows


def main(options: Options) -> None:
    """Measure, print the tables, and write JSON where asked."""
    keep_freed_memory()
    skipped = left_out({dtype: dtype for dtype in options.dtypes}, CPU)
    dtypes = tuple(dtype for dtype in options.dtypes if dtype not in skipped)
    options = dataclasses.replace(options, dtypes=dtypes)
    results = {}
    if "ops" in options.tables:
        results["ops"] = ops_table(options)
    if "step" in options.tables:
        results["step"] = step_table(options)
    if options.json:
        fields = {"options": dataclasses.asdict(options), "native_level": native.default_level()}
        report.write_json(options.json, CPU, {**fields, "left_out": skipped, **results})


def _machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{report.headline(CPU)} ({capability}), native level {native.default_level()}"


if __name__ == "__main__":
    main(tyro.cli(Options))
