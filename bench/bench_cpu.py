"""Each op of the model on a CPU, forward and backward: eager, torch.compile and native.

Run: ``python bench/bench_cpu.py`` (``--help`` for the sizes). The head with its GEMMs has a
benchmark of its own, ``bench_linear_cross_entropy.py``.

Native ops are timed at every instruction-set level that the CPU runs. To hold a level against
PyTorch on such a machine, put PyTorch on it too: ``ATEN_CPU_CAPABILITY=avx2`` (or ``default``).
"of copy" is the time of a copy of as many bytes as the op must read and write, over the op's.

Add + LayerNorm and attention have no native implementation: eager add + LayerNorm is within a
factor of two of the copy, and attention is GEMMs.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import interleaved
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from pygpt import cpu_gelu, cpu_ops, ops
from pygpt.hardware import keep_freed_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")
Op = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the model's ops on this CPU."""

    tokens: int = 2048
    block_size: int = 512
    widths: tuple[int, ...] = (384, 768)
    vocab: int = 50_304
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


def _training(op: Op, inputs: Sequence[Tensor]) -> interleaved.Call:
    """A call of the forward and the backward, with the gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = op(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    upstream = [torch.randn_like(y) for y in outputs]

    def call() -> None:
        results = op(*leaves)
        torch.autograd.grad(results, leaves, upstream)

    return call


def _ways(
    eager: Op, inputs: Sequence[Tensor], native: dict[str, Op]
) -> dict[str, interleaved.Call]:
    every = {"eager": eager, "torch.compile": torch.compile(eager, dynamic=False), **native}
    return {name: _training(op, inputs) for name, op in every.items()}


def _gelu(rows: int, width: int, dtype: str) -> Case:
    x, bias = torch.randn(rows, 4 * width).to(DTYPES[dtype]), torch.randn(4 * width)
    native: dict[str, Op] = {
        f"native {level}": lambda x, bias, level=level: cpu_gelu.gelu(x, bias, level=level)
        for level in cpu_ops.levels()
    }
    eager = lambda x, bias: ops.gelu(x, bias, impl="eager")  # noqa: E731
    return Case("gelu", f"{rows}×{4 * width}", dtype, _ways(eager, [x, bias], native), 5 * x.nbytes)


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
    shape = f"{sequences}×{options.block_size}×{width}"
    return Case("attention", shape, dtype, _ways(eager, [qkv], {}), 0)


def _cross_entropy(rows: int, vocab: int, dtype: str) -> Case:
    """The row kernel alone, over the logits of one chunk."""
    logits = torch.randn(rows, vocab).to(DTYPES[dtype])
    targets = torch.randint(vocab, (rows,))
    loss, lse = torch.empty(2, rows)

    def native(level: str) -> interleaved.Call:
        tile = logits.clone()
        return lambda: cpu_ops.cross_entropy_rows(
            tile, targets, loss, lse, None,
            ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True, level=level,
        )  # fmt: skip

    eager = lambda logits: F.cross_entropy(logits.float(), targets, reduction="sum")  # noqa: E731
    ways = _ways(eager, [logits], {})
    ways.update({f"native {level}": native(level) for level in cpu_ops.levels()})
    return Case("cross_entropy_rows", f"{rows}×{vocab}", dtype, ways, 2 * logits.nbytes)


def main(options: Options) -> int:
    """Measure, print a table, and write JSON where asked."""
    keep_freed_memory()
    results = []
    for dtype in options.dtypes:
        cases = [_cross_entropy(options.tokens // 4, options.vocab, dtype)]
        for width in options.widths:
            cases.append(_gelu(options.tokens, width, dtype))
            cases.append(_add_layer_norm(options.tokens, width, dtype))
            cases.append(_attention(options, width, dtype))
        for case in cases:
            results += _measure(case, options.rounds)
    machine = interleaved.machine(CPU)
    interleaved.show(
        f"ops on {machine['device']}, {machine['threads']} threads, torch {machine['torch']} "
        f"({machine['cpu_capability']}), forward and backward",
        ("op", "shape", "dtype", "implementation", "ms", "20–80 %", "of copy"),
        [_cells(row) for row in results],
        names=4,
    )
    if options.json:
        interleaved.write_json(options.json, {"machine": machine, "results": results})
    return 0


def _measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    source = torch.zeros(max(case.bytes // 2, 1), dtype=torch.int8)
    target = torch.zeros_like(source)
    ways = {"copy": lambda: target.copy_(source), **case.ways} if case.bytes else case.ways
    timings = interleaved.measure(ways, rounds, CPU)
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


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    names = (row[key] for key in ("op", "shape", "dtype", "implementation"))
    share = "" if row["of_copy"] is None else f"{100 * row['of_copy']:.0f} %"
    return (*names, *interleaved.milliseconds(interleaved.Timing(**row["ms"])), share)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
