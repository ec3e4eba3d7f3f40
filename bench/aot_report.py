"""Registers, stack and shared memory of every launch-table entry, compiled without a GPU.

Run: ``python bench/aot_report.py [--arch sm_89] [--op attention] [--dtype bfloat16]``

Each entry is launched by its own launcher on small CPU tensors, with a driver that reports the
entry's architecture and compiles instead of launching. Strides, constants and alignment are those
of a GPT-2 on a GPU. An entry of a width class is compiled for GPT-2's width of that class, and
every entry in all the forms that a GPT uses: with and without bias and residual, with and without
dropout, in TF32 and exact. The report shows the maximum over these.

Registers and stack are read from the compiled code by the cuobjdump inside the triton wheel. The
exit status is 1 if an entry exceeds its architecture's limits, or spills or allows fewer than two
programs per SM without giving a reason, or if its code for sm_90 overwrites registers that a
product still reads (`pygpt.planning.sass`). The ptxas is the one that would be taken on a GPU
(`pygpt.kernels.toolchain`); --ptxas PATH takes another one.

Linux only; TRITON_INTERPRET must not be set. The whole table takes five minutes on two cores.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from pygpt.config import GPTConfig
from pygpt.kernels import (
    attention,
    cross_entropy,
    decode_attention,
    gelu,
    launch,
    layer_norm,
    toolchain,
)
from pygpt.planning import sass


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
    """What an SM of an architecture offers (CUDA C++ Programming Guide, table of capabilities)."""

    shared_per_block: int
    shared_per_sm: int
    threads_per_sm: int
    blocks_per_sm: int
    registers_per_sm: int = 65_536


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(166_912, 167_936, 2_048, 32),
    "sm_89": Multiprocessor(101_376, 102_400, 1_536, 24),
    "sm_90": Multiprocessor(232_448, 233_472, 2_048, 32),
}
DTYPES = {16: ("float16", "bfloat16"), 32: ("float32",)}

GPT2_WIDTHS = {512: 384, 1024: 768, 2048: 1600}
"""Of the width classes that a preset's n_embd belongs to without filling it: that n_embd."""


STACK_WITH_DROPOUT = 128
"""Bytes that a form with dropout may spill: its time goes into random numbers."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One way in which a GPT uses a kernel."""

    call: Callable[[], object]
    """Launches it."""
    dropout: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """One compiled entry: the most that any of its forms uses; those with dropout apart."""

    key: launch.Key
    launch: launch.Launch
    dtype: str
    registers: int
    stack: int
    shared: int
    with_dropout: tuple[int, int] | None
    """Registers and stack; None where there is no such form."""
    ptxas: str
    """Its version."""
    overwritten: tuple[str, ...]
    """Registers that are overwritten while a product may still read them."""

    @property
    def programs_per_sm(self) -> int:
        """How many programs fit on an SM at once, by threads, registers and shared memory."""
        sm = MULTIPROCESSORS[self.key.architecture]
        # A warp's registers are handed out in units of 256; a block's shared memory has 1 KiB of
        # the system's beside it.
        per_warp = -(-self.registers * 32 // 256) * 256
        programs: int = min(
            sm.blocks_per_sm,
            sm.threads_per_sm // (32 * self.launch.num_warps),
            sm.registers_per_sm // (per_warp * self.launch.num_warps),
            sm.shared_per_sm // (self.shared + 1024),
        )
        return programs

    @property
    def fault(self) -> str:
        """Why this entry must not stay as it is; "" if it may."""
        if self.overwritten:
            return f"wrong code by ptxas {self.ptxas}: {self.overwritten[0]}"
        if self.shared > MULTIPROCESSORS[self.key.architecture].shared_per_block:
            return "more shared memory than a block may have"
        if self.programs_per_sm < 1:
            return "more registers than an SM has"
        if self.launch.reason:
            return ""
        return self._weakness

    @property
    def _weakness(self) -> str:
        """What an entry may have only for a reason."""
        if self.stack:
            return "spills, without a reason"
        if self.with_dropout and self.with_dropout[1] > STACK_WITH_DROPOUT:
            return "spills with dropout, without a reason"
        if self.programs_per_sm < 2:
            return "one program per SM, without a reason"
        return ""


# --- compiling instead of launching ---------------------------------------------------------------


class _Driver:
    """Stands in for the CUDA driver as far as compiling goes."""

    def __init__(self, architecture: str) -> None:
        self._architecture = architecture
        self._target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)

    def get_current_device(self) -> str:
        return self._architecture  # the key of Triton's cache: one per architecture

    def get_current_stream(self, device: object) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


@contextmanager
def _compiling(kernel: JITFunction, key: launch.Key, entry: launch.Launch) -> Iterator[list[Any]]:
    """Inside, a launch of `kernel` compiles it with `entry`, into the list; others do nothing."""
    compiled: list[Any] = []

    def compile_only(launched: JITFunction, grid: object) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            if launched is kernel:
                compiled.append(kernel.warmup(*args, grid=grid, **kwargs))

        return call

    # Driver and table are not restored: the process ends here, and there is no GPU.
    triton.runtime.driver.set_active(_Driver(key.architecture))
    launch.use_entries({key: entry}, "ahead of time")
    with (
        mock.patch.object(JITFunction, "__getitem__", compile_only),
        mock.patch.object(launch, "architecture", return_value=key.architecture),
    ):
        yield compiled


def _forms(op: str, size: int, dtype: torch.dtype) -> tuple[JITFunction, list[Form]]:
    """The kernel of `op`, and calls of its launcher as a GPT makes them, for the class `size`."""
    if op.startswith("attention"):
        return _attention_forms(op, size, dtype)
    kernel, calls = _calls(op, size, dtype)
    return kernel, [Form(call) for call in calls]


def _calls(
    op: str, size: int, dtype: torch.dtype
) -> tuple[JITFunction, list[Callable[[], object]]]:
    """`_forms` of the other operators, which have no dropout."""
    if op.startswith("layer_norm"):
        return _layer_norm_forms(op, GPT2_WIDTHS.get(size, size), dtype)
    if op == "decode_attention":
        q, cache = (torch.empty(2, length, 2 * size, dtype=dtype) for length in (1, 256))
        return decode_attention._kernel, [
            lambda: decode_attention._decode_attention(q, cache, cache, 2)
        ]
    if op == "cross_entropy":
        return cross_entropy._cross_entropy_kernel, _cross_entropy_forms(dtype)
    x, bias = torch.empty(256, 3072, dtype=dtype), torch.empty(3072)
    if op == "gelu_forward":
        return gelu._forward_kernel, [
            lambda: gelu._gelu(x, bias, "tanh"),
            lambda: gelu._gelu(x, None, "tanh"),
        ]
    return gelu._backward_kernel, [
        lambda: gelu._gelu_backward(x, x, bias, "tanh"),
        lambda: gelu._gelu_backward(x, x, None, "tanh"),
    ]


def _attention_forms(op: str, head_size: int, dtype: torch.dtype) -> tuple[JITFunction, list[Form]]:
    B, T, n_head = 2, 256, 2
    qkv = torch.empty(B, T, 3 * n_head * head_size, dtype=dtype)
    y = torch.empty(B, T, n_head * head_size, dtype=dtype)
    lse = torch.empty(B, n_head, T)
    kernel = {
        "attention_forward": attention._forward_kernel,
        "attention_delta": attention.delta_kernel,
        "attention_dkdv": attention.dkdv_kernel,
        "attention_dq": attention.dq_kernel,
    }[op]

    seed = torch.empty(1, dtype=torch.int64)

    def call(precision: str, dropout: float) -> object:
        torch.set_float32_matmul_precision(precision)
        if op == "attention_forward":
            return attention._attention(qkv, n_head, dropout, seed if dropout else None)
        return attention._attention_backward(
            y, qkv, y, lse, n_head, dropout, seed if dropout else None
        )

    if op == "attention_delta":
        return kernel, [Form(functools.partial(call, "highest", 0.0))]
    precisions = ("highest", "high") if dtype == torch.float32 else ("highest",)
    return kernel, [
        Form(functools.partial(call, precision, dropout), dropout > 0)
        for precision, dropout in itertools.product(precisions, (0.0, 0.2))
    ]


def _layer_norm_forms(
    op: str, width: int, dtype: torch.dtype
) -> tuple[JITFunction, list[Callable[[], object]]]:
    """The first norm has no residual in front of it; under autocast the stream stays fp32."""
    rows = 256
    x, stream = torch.empty(rows, width, dtype=dtype), torch.empty(rows, width)
    weight, stats = torch.empty(width), torch.empty(rows)
    if op == "layer_norm_forward":
        return layer_norm._forward_kernel, [
            lambda: layer_norm._add_layer_norm(x, stream, weight, weight, 1e-5),
            lambda: layer_norm._add_layer_norm(x, stream, weight, None, 1e-5),
            lambda: layer_norm._layer_norm(stream, weight, None, 1e-5),
        ]

    def backward(d_normed: Tensor, d_summed: Tensor | None, has_bias: bool) -> object:
        return layer_norm._layer_norm_backward(
            d_normed, d_summed, stream, weight, stats, stats, has_bias
        )

    return layer_norm._backward_kernel, [
        lambda: backward(x, stream, True),
        lambda: backward(x, stream, False),
        lambda: backward(x, None, False),
    ]


def _cross_entropy_forms(dtype: torch.dtype) -> list[Callable[[], object]]:
    rows = 256
    logits, targets = (
        torch.empty(rows, GPTConfig.vocab_size, dtype=dtype),
        torch.empty(rows, dtype=torch.int64),
    )
    stats = torch.empty(rows)

    def call(row_weight: Tensor | None, label_smoothing: float, gradient: bool) -> object:
        return cross_entropy.cross_entropy_rows(
            logits, targets, stats, stats, row_weight,
            ignore_index=-100, z_loss=0.0, label_smoothing=label_smoothing, gradient=gradient,
        )  # fmt: skip

    return [
        lambda: call(None, 0.0, True),
        lambda: call(None, 0.0, False),
        lambda: call(stats, 0.1, True),
    ]


def compile_entry(
    key: launch.Key, entry: launch.Launch, dtype: str, dropout: bool = True
) -> Result:
    """Compile one entry for its architecture, in all its forms, and read what the code uses.

    Without `dropout` the forms with it are left out.
    """
    kernel, forms = _forms(key.op, key.size, getattr(torch, dtype))
    forms = [form for form in forms if dropout or not form.dropout]
    with _ptxas_of(key.architecture) as ptxas, _compiling(kernel, key, entry) as compiled:
        for form in forms:
            form.call()
    cubins = [binary.asm["cubin"] for binary in compiled]
    assert len(cubins) == len(forms)
    used = [(form.dropout, *_resources(cubin)) for form, cubin in zip(forms, cubins, strict=True)]
    registers, stack = _most(used, dropout=False)
    with_dropout = _most(used, dropout=True) if any(form.dropout for form in forms) else None
    shared = max(binary.metadata.shared for binary in compiled)
    overwritten = [
        line
        for binary in compiled
        if "wgmma" in binary.asm["ptx"]
        for line in sass.overwritten_operands(sass.disassemble(binary.asm["cubin"]))
    ]
    return Result(
        key, entry, dtype, registers, stack, shared, with_dropout, ptxas, tuple(overwritten)
    )


def _most(used: list[tuple[bool, int, int]], *, dropout: bool) -> tuple[int, int]:
    """The most registers and stack of the forms with dropout, or of those without."""
    chosen = [(registers, stack) for has_it, registers, stack in used if has_it == dropout]
    registers, stack = map(max, zip(*chosen, strict=True))
    return registers, stack


@contextmanager
def _ptxas_of(architecture: str) -> Iterator[str]:
    """Inside, Triton calls the ptxas that it would call on such a GPU; its version."""
    with mock.patch.dict(os.environ):
        toolchain.prepare(int(architecture.removeprefix("sm_")))
        yield "{}.{}".format(*toolchain.ptxas()[1])
    toolchain.forget_version()


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers per thread, bytes of stack per thread) of the one kernel in a cubin."""
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [cuobjdump, "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage:\n{text}")
    return int(found[1]), int(found[2])


# --- report ---------------------------------------------------------------------------------------


def report(
    jobs: list[tuple[launch.Key, launch.Launch, str]], workers: int = 2, dropout: bool = True
) -> list[Result]:
    """Compile every job, over several processes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        compiling = functools.partial(compile_entry, dropout=dropout)
        return list(pool.map(compiling, *zip(*jobs, strict=True)))


def jobs_for(arch: str = "", op: str = "", dtype: str = "") -> list[tuple[Any, Any, str]]:
    """The table's entries, each with the dtypes it serves; an empty argument takes all.

    Args:
        arch: an architecture.
        op: how the name of the operator begins.
        dtype: a dtype.
    """
    return [
        (key, entry, name)
        for key, entry in launch.TABLE.items()
        for name in DTYPES[key.bits]
        if key.architecture.startswith(arch) and key.op.startswith(op) and name.startswith(dtype)
    ]


def _print(results: list[Result]) -> None:
    table = Table(title="launch table, compiled ahead of time")
    for column in ("entry", "dtype", "tile", "warps", "stages"):
        table.add_column(column)
    for column in ("registers", "stack B", "shared B", "programs/SM", "with dropout"):
        table.add_column(column, justify="right")
    table.add_column("note")
    for result in results:
        entry, note = result.launch, f"[red]{result.fault}[/]" if result.fault else ""
        cells = (
            f"{result.key.architecture} {result.key.op} {result.key.size or ''}", result.dtype,
            f"{entry.rows}×{entry.columns}", entry.num_warps, entry.num_stages,
            result.registers, result.stack, result.shared, result.programs_per_sm,
            "{}, {} B".format(*result.with_dropout) if result.with_dropout else "",
        )  # fmt: skip
        table.add_row(*map(str, cells), note or entry.reason)
    Console(width=160 if not sys.stdout.isatty() else None).print(table)


def main(
    arch: str = "", op: str = "", dtype: str = "", workers: int = 2, ptxas: Path | None = None
) -> int:
    """Compile the launch table for its architectures and print what each entry uses.

    Args:
        arch: only this architecture: sm_80, sm_89 or sm_90.
        op: only operators whose name begins so.
        dtype: only this dtype.
        workers: processes that compile.
        ptxas: the one to compile with.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("TRITON_INTERPRET=1 replaces the compiler; unset it for this report", file=sys.stderr)
        return 2
    if ptxas:
        os.environ["TRITON_PTXAS_PATH"] = str(ptxas)
    jobs = jobs_for(arch, op, dtype)
    if not jobs:
        print(f"no entry of the launch table fits {arch=} {op=} {dtype=}", file=sys.stderr)
        return 2
    results = report(jobs, workers)
    _print(results)
    faults = sum(bool(result.fault) for result in results)
    versions = sorted({f"{result.key.architecture} {result.ptxas}" for result in results})
    print(
        f"{len(results)} entries, {faults} with a fault; triton {triton.__version__}, "
        f"ptxas of {', '.join(versions)}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
