"""A whole training step: how fast it is, how much memory it takes, where its time goes.

    python bench/bench_step.py --preset gpt2
    python bench/bench_step.py --preset owt-30m --nanogpt ../nanoGPT --json bench/results/step.json

A step is forward, backward, clipping and AdamW over random ids. In each round every subject takes
its turn, in a new order; a figure is the median over the rounds, with the extremes beside it.

- ``eager``, ``eager, compiled``: pygpt's model with every op in plain PyTorch;
- ``pygpt``, ``pygpt, compiled``: with the implementations that impl="auto" takes here;
- ``pygpt, Liger's loss``: with Liger-Kernel's fused linear cross-entropy (a GPU, where installed);
- ``nanoGPT``, ``nanoGPT, compiled``: its model.py and optimiser, imported from --nanogpt DIR.

pygpt's subjects share one set of weights, gradients and moments, so that all fit on one card; peak
memory is a subject's own state and what its step adds. On a GPU the parts are its kernels' times,
by the op that launched them; on a CPU they are the ops' own times. "idle" is the rest of the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pygpt.config import PRESETS, GPTConfig, TrainConfig, from_preset
from pygpt.hardware import keep_freed_memory, peak_flops, pick_device, pick_dtype
from pygpt.implementations import Implementations
from pygpt.model import GPT
from pygpt.optim import build_optimizer
from pygpt.run import describe_environment

Loss = Callable[[Tensor, Tensor], Tensor]

# Parts of a step by what the names of ops and kernels contain; the first that matches counts.
PARTS = {
    "fused by Inductor": ("compiledfxgraph", "triton_poi", "triton_red", "triton_per"),
    "attention": ("attention", "flash", "fmha"),
    "loss": ("cross_entropy", "log_softmax", "nll_loss", "liger"),
    "GEMM": ("aten::mm", "aten::addmm", "aten::bmm", "gemm", "cutlass", "nvjet", "mkldnn_linear"),
    "norms": ("layer_norm",),
    "GELU": ("gelu",),
    "optimizer": ("adam", "foreach", "_norm"),
    "embedding": ("embedding", "index_put"),
    "data": ("memcpy htod",),
}
OTHER = "casts, adds, copies"


@dataclasses.dataclass(frozen=True)
class Options:
    """A whole training step: how fast it is, how much memory it takes, where its time goes."""

    preset: str = "stdlib-cpu"
    """Whose model."""
    vocab_size: int = 50304
    """Rows of the embedding table."""
    micro_batch: int = 8
    """Sequences at once."""
    accumulation: int = 2
    """Micro-batches a step."""
    device: str = "auto"
    dtype: str = "auto"
    steps: int = 3
    """Steps in one timing."""
    rounds: int = 5
    """How often every subject is timed."""
    compile: bool = True
    """Time the compiled subjects too; --no-compile saves minutes."""
    nanogpt: Path | None = None
    """A checkout of nanoGPT."""
    json: Path | None = None
    """Where to write the results."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One way to train."""

    name: str
    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all subjects share."""

    config: GPTConfig
    device: torch.device
    dtype: torch.dtype
    batches: list[tuple[Tensor, Tensor]]
    """Micro-batches of a step, in the host's memory."""

    def step(self, subject: Subject) -> None:
        """One training step."""
        for ids in self.batches:
            x, y = (part.to(self.device, non_blocking=True) for part in ids)
            with self._autocast():
                loss = subject.loss(x, y) / len(self.batches)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(subject.model.parameters(), 1.0)
        subject.optimizer.step()
        subject.optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


# --- subjects -------------------------------------------------------------------------------------


def subjects(bench: Bench, options: Options) -> list[Subject]:
    """Everything that is timed, built on the device."""
    torch.manual_seed(1)
    auto = GPT(bench.config, Implementations().resolve(bench.device)).to(bench.device)
    eager = GPT(bench.config, "eager").to(bench.device)
    _share_parameters(eager, auto)
    optimizer = build_optimizer(auto, TrainConfig())
    found = [
        Subject("eager", eager, eager.loss, optimizer),
        Subject("pygpt", auto, auto.loss, optimizer),
    ]
    if options.nanogpt:
        found.append(_nanogpt(bench, options.nanogpt))
    if options.compile:
        found += [
            dataclasses.replace(each, name=f"{each.name}, compiled", loss=torch.compile(each.loss))
            for each in found
        ]
    if bench.device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        found.append(Subject("pygpt, Liger's loss", auto, _liger_loss(auto), optimizer))
    return found


def _share_parameters(model: nn.Module, source: nn.Module) -> None:
    for own, other in zip(model.modules(), source.modules(), strict=True):
        for name, parameter in other.named_parameters(recurse=False):
            setattr(own, name, parameter)


def _liger_loss(model: GPT) -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss(ignore_index=-1)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = fused(model.wte.weight, model.hidden(x).flatten(0, 1), y.flatten())
        return result

    return loss


def _nanogpt(bench: Bench, checkout: Path) -> Subject:
    path = checkout / "model.py"
    if not path.exists():
        sys.exit(f"{checkout} is no checkout of nanoGPT: it has no model.py")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    names = {field.name for field in dataclasses.fields(module.GPTConfig)}
    values = dataclasses.asdict(bench.config)
    model = module.GPT(module.GPTConfig(**{name: values[name] for name in names}))
    model.to(bench.device)
    c = TrainConfig()
    optimizer = model.configure_optimizers(
        c.weight_decay, c.learning_rate, (c.beta1, c.beta2), bench.device.type
    )
    return Subject("nanoGPT", model, lambda x, y: model(x, y)[1], optimizer)


# --- measuring ------------------------------------------------------------------------------------


def time_in_rounds(
    bench: Bench, all_subjects: list[Subject], options: Options
) -> dict[str, list[float]]:
    """Seconds of a step, by subject, one figure a round."""
    seconds: dict[str, list[float]] = {subject.name: [] for subject in all_subjects}
    for _ in range(options.rounds):
        for subject in random.sample(all_subjects, len(all_subjects)):
            bench.synchronize()
            start = time.perf_counter()
            for _ in range(options.steps):
                bench.step(subject)
            bench.synchronize()
            seconds[subject.name].append((time.perf_counter() - start) / options.steps)
    return seconds


def peak_bytes(bench: Bench, subject: Subject) -> int:
    """The subject's weights and moments, and the most that one step adds to them."""
    parameters = list(subject.model.parameters())
    moments = [t for p in parameters for t in subject.optimizer.state[p].values()]
    state: int = sum(tensor.nbytes for tensor in [*parameters, *moments])
    if bench.device.type == "cuda":
        bench.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        bench.step(subject)
        bench.synchronize()
        return state + torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as recorded:
        bench.step(subject)
    allocations = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    live: int = 0
    peak: int = 0
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return state + peak


def seconds_by_part(bench: Bench, subject: Subject) -> dict[str, float]:
    """Seconds of one step by part, and what is left of it as "idle"."""
    on_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    bench.synchronize()
    with profile(activities=activities) as recorded:
        start = time.perf_counter()
        bench.step(subject)
        bench.synchronize()
        wall = time.perf_counter() - start
    parts = dict.fromkeys([*PARTS, OTHER], 0.0)
    for event in recorded.events() or []:
        if on_gpu:
            for kernel in event.kernels:
                parts[_part(event.name, kernel.name)] += kernel.duration / 1e6
        else:
            parts[_part(event.name)] += event.self_cpu_time_total / 1e6
    return parts | {"idle": max(0.0, wall - sum(parts.values()))}


def _part(*names: str) -> str:
    """The part that the first telling name stands for."""
    for name in names:
        for part, marks in PARTS.items():
            if any(mark in name.lower() for mark in marks):
                return part
    return OTHER


# --- reporting ------------------------------------------------------------------------------------


def main() -> None:
    """The benchmark."""
    options = tyro.cli(Options)
    if options.preset not in PRESETS:
        sys.exit(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    bench = _bench(options)
    peak = peak_flops(bench.device, bench.dtype)
    everything = subjects(bench, options)
    for subject in everything:
        console.print(f"warming up: {subject.name}", markup=False)
        for _ in range(2):
            bench.step(subject)
    seconds = time_in_rounds(bench, everything, options)
    tokens = options.accumulation * options.micro_batch * bench.config.block_size
    rows = []
    for subject in everything:
        own = sorted(seconds[subject.name])
        rate = tokens / statistics.median(own)
        rows.append(
            {
                "subject": subject.name,
                "tokens_per_second": rate,
                "slowest": tokens / own[-1],
                "fastest": tokens / own[0],
                "mfu_causal": rate * bench.config.flops_per_token(causal=True) / peak.flops,
                "mfu_nanogpt": rate * bench.config.flops_per_token() / peak.flops,
                "peak_bytes": peak_bytes(bench, subject),
                "seconds_by_part": seconds_by_part(bench, subject),
            }
        )
    title = (
        f"{options.preset}, {bench.config.n_params() / 1e6:.1f} M parameters, "
        f"{options.accumulation} × {options.micro_batch} × {bench.config.block_size} tokens, "
        f"{str(bench.dtype).removeprefix('torch.')}; MFU of {peak}"
    )
    _print(console, title, rows)
    if options.json:
        result = {
            "environment": describe_environment(bench.device),
            "options": {name: str(value) for name, value in dataclasses.asdict(options).items()},
            "peak": str(peak),
            "results": rows,
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _bench(options: Options) -> Bench:
    device = pick_device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()
    run = from_preset(options.preset)
    config = dataclasses.replace(run.model(options.vocab_size), dropout=0.0)
    dtype = getattr(torch, pick_dtype(options.dtype, device, config.n_embd))  # type: ignore[arg-type]
    shape = (options.accumulation, 2, options.micro_batch, config.block_size)
    ids = torch.randint(config.vocab_size, shape)
    if device.type == "cuda":
        ids = ids.pin_memory()
    return Bench(config, device, dtype, [(x, y) for x, y in ids])


def _print(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    table = Table("", title=title, title_justify="left")
    for column in ("tokens/s", "min–max", "MFU, causal", "MFU, as nanoGPT", "peak MiB"):
        table.add_column(column, justify="right")
    parts = Table("ms of a step", *[row["subject"] for row in rows])
    for row in rows:
        table.add_row(
            row["subject"],
            f"{row['tokens_per_second']:,.0f}",
            f"{row['slowest']:,.0f}–{row['fastest']:,.0f}",
            f"{row['mfu_causal']:.1%}",
            f"{row['mfu_nanogpt']:.1%}",
            f"{row['peak_bytes'] / 2**20:,.0f}",
        )
    for part in rows[0]["seconds_by_part"]:
        parts.add_row(part, *(f"{1e3 * row['seconds_by_part'][part]:,.1f}" for row in rows))
    for each in parts.columns[1:]:
        each.justify = "right"
    console.print(table)
    console.print(parts)


if __name__ == "__main__":
    main()
