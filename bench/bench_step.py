"""A whole training step: how fast it is, how much memory it takes, where its time goes.

    python bench/bench_step.py --preset gpt2
    python bench/bench_step.py --preset owt-30m --nanogpt ../nanoGPT --json bench/results/step.json

A step is forward, backward, clipping and AdamW over random ids. In each round every subject takes
its turn, in a new order; a figure is the median over the rounds, with the 20th and 80th percentile
beside it. ``bench_cpu.py`` has the same steps beside the ops on a CPU, in fp32 and bf16.

- ``eager``, ``eager, compiled``: pygpt's model with every op in plain PyTorch;
- ``pygpt``, ``pygpt, compiled``: with the implementations that impl="auto" takes here;
- ``pygpt, Liger's loss``: with Liger-Kernel's fused linear cross-entropy (a GPU, where installed);
- ``nanoGPT``, ``nanoGPT, compiled``: its model.py and optimiser, imported from --nanogpt DIR.

pygpt's subjects share one set of weights, gradients and moments, so that all fit on one GPU; peak
memory is a subject's own state and what its step adds. On a GPU the parts are its kernels' times,
by the op that launched them; on a CPU they are the ops' own times. "idle" is the rest of the median
step, which the profiler did not slow down.

A subject that fails, for want of memory or in a compiler, is reported with what was measured of it,
and the others go on. After Ctrl-C or SIGTERM, what was measured by then is written and printed. In
both cases the exit status is 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from lib import interleaved, nanogpt, report
from lib.interleaved import Spread
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pygpt.config import GPTConfig, TrainConfig, from_preset
from pygpt.model import GPT
from pygpt.ops.chunked_cross_entropy import gpu_memory
from pygpt.ops.dispatch import Implementations
from pygpt.planning.hardware import (
    DType,
    Peak,
    free_memory,
    keep_freed_memory,
    peak_flops,
    pick_device,
    pick_dtype,
)
from pygpt.planning.memory import Plan
from pygpt.training.optimizer import build_optimizer
from pygpt.training.parallel import COMPILE
from pygpt.utils import cli

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

MICRO_BATCH_TOKENS = 32_768
"""The most that a micro-batch holds by default: more would only take longer."""

BUDGET_S = 5.0
"""A subject whose rounds took longer than this in total is skipped after the second round."""


@dataclasses.dataclass(frozen=True)
class Options:
    """A whole training step: how fast it is, how much memory it takes, where its time goes."""

    preset: str = "stdlib-cpu"
    """Whose model."""
    vocab_size: int = GPTConfig.vocab_size
    """Rows of the embedding table."""
    micro_batch: int | None = None
    """Sequences at once. Default: the most with which plain PyTorch fits, by
    pygpt.planning.memory, up to 32,768 tokens."""
    accumulation: int = 2
    """Micro-batches a step."""
    device: str = "auto"
    dtype: DType | Literal["auto"] = "auto"
    steps: int = 3
    """Steps in one timing."""
    rounds: int = 5
    """How often every subject is timed; one that took 5 s in total is skipped after round 2."""
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

    @classmethod
    def of(
        cls,
        config: GPTConfig,
        device: torch.device,
        dtype: torch.dtype,
        micro_batch: int,
        accumulation: int = 1,
    ) -> Bench:
        """With batches of random ids, `accumulation` of `micro_batch` sequences each."""
        shape = (accumulation, 2, micro_batch, config.block_size)
        ids = torch.randint(config.vocab_size, shape)
        if device.type == "cuda":
            ids = ids.pin_memory()
        return cls(config, device, dtype, [(x, y) for x, y in ids])

    @property
    def micro_batch(self) -> int:
        """Sequences at once."""
        return len(self.batches[0][0])

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return sum(x.numel() for x, _ in self.batches)

    def step(self, subject: Subject) -> None:
        """One training step; without gradients afterwards, even if it ran out of memory."""
        try:
            for ids in self.batches:
                x, y = (part.to(self.device, non_blocking=True) for part in ids)
                with self._autocast():
                    loss = subject.loss(x, y) / len(self.batches)
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(subject.model.parameters(), 1.0)
            subject.optimizer.step()
        finally:
            subject.optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


# --- subjects -------------------------------------------------------------------------------------


def subjects(bench: Bench, options: Options) -> list[Subject]:
    """Everything that is timed, built on the device."""
    eager, auto = pygpt_subjects(bench)
    found = [auto, eager]
    if options.nanogpt:
        model, optimizer = nanogpt.build(options.nanogpt, bench.config, TrainConfig(), bench.device)
        found.insert(1, Subject("nanoGPT", model, lambda x, y: model(x, y)[1], optimizer))
    if options.compile:  # first: where the time runs out, what matters most is there
        found = [*(compiled(subject) for subject in found), *found]
    if bench.device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        assert isinstance(auto.model, GPT)
        loss = _liger_loss(auto.model)
        found.append(dataclasses.replace(auto, name="pygpt, Liger's loss", loss=loss))
    return found


def pygpt_subjects(bench: Bench) -> tuple[Subject, Subject]:
    """Pygpt's model in plain PyTorch, and as impl="auto" makes it: "eager" and "pygpt"."""
    torch.manual_seed(1)
    auto = GPT(bench.config, Implementations().resolve(bench.device, bench.config)).to(bench.device)
    eager = GPT(bench.config, "eager").to(bench.device)
    _share_parameters(eager, auto)
    optimizer = build_optimizer(auto, TrainConfig())
    return (
        Subject("eager", eager, eager.loss, optimizer),
        Subject("pygpt", auto, auto.loss, optimizer),
    )


def compiled(subject: Subject) -> Subject:
    """The same under torch.compile; pygpt's own as a run compiles it."""
    options = COMPILE if isinstance(subject.model, GPT) else {}
    return dataclasses.replace(
        subject, name=f"{subject.name}, compiled", loss=torch.compile(subject.loss, **options)
    )


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


# --- measuring ------------------------------------------------------------------------------------


def peak_bytes(bench: Bench, subject: Subject) -> int:
    """The subject's weights and moments, and the most that one step adds to them."""
    parameters = list(subject.model.parameters())
    added = interleaved.peak_bytes(lambda: bench.step(subject), bench.device)
    moments = [t for p in parameters for t in subject.optimizer.state[p].values()]
    state: int = sum(tensor.nbytes for tensor in [*parameters, *moments])
    return state + added


def seconds_by_part(bench: Bench, subject: Subject, whole: float) -> dict[str, float]:
    """Seconds of one step by part; "idle" is what is left of `whole`, its time unprofiled."""
    on_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as recorded:
        interleaved.time_once(lambda: bench.step(subject), bench.device)
    parts = dict.fromkeys([*PARTS, OTHER], 0.0)
    for event in recorded.events() or []:
        if on_gpu:
            for kernel in event.kernels:
                parts[_part(event.name, kernel.name)] += kernel.duration / 1e6
        else:
            parts[_part(event.name)] += event.self_cpu_time_total / 1e6
    return parts | {"idle": max(0.0, whole - sum(parts.values()))}


def _part(*names: str) -> str:
    """The part that the first telling name stands for."""
    for name in names:
        for part, marks in PARTS.items():
            if any(mark in name.lower() for mark in marks):
                return part
    return OTHER


def _rates(bench: Bench, step_seconds: list[float], peak: Peak) -> dict[str, Any]:
    rate = Spread.of(bench.tokens / seconds for seconds in step_seconds)
    return {
        "tokens_per_second": dataclasses.asdict(rate),
        "mfu_causal": rate.median * bench.config.flops_per_token(causal=True) / peak.flops,
        "mfu_nanogpt": rate.median * bench.config.flops_per_token() / peak.flops,
    }


# --- reporting ------------------------------------------------------------------------------------


def main(options: Options) -> int:
    """Measure, print the tables, and write JSON where asked.

    Returns:
        The exit status: 1 where a subject had no room or the measuring was stopped.
    """
    from_preset(options.preset)  # refuses an unknown name
    if options.nanogpt:
        nanogpt.check(options.nanogpt)
    bench = _bench(options)
    peak = peak_flops(bench.device, bench.dtype)
    everything = {subject.name: subject for subject in subjects(bench, options)}

    def turn(subject: Subject) -> None:
        for _ in range(options.steps):
            bench.step(subject)

    ways = {name: functools.partial(turn, subject) for name, subject in everything.items()}
    timer = interleaved.Interleaved(ways, bench.device, survived=(Exception,))
    details: dict[str, dict[str, Any]] = {}

    def rows() -> list[dict[str, Any]]:
        """What is known by now."""
        return [
            {
                "subject": name,
                **_rates(bench, [s / options.steps for s in seconds], peak),
                **details.get(name, {}),
            }
            for name, seconds in timer.seconds.items()
            if seconds
        ]

    def write() -> None:
        if options.json:
            chosen = dataclasses.replace(options, micro_batch=bench.micro_batch)
            fields = {"options": dataclasses.asdict(chosen), "peak": str(peak)}
            results = {"results": rows(), "failures": timer.failures}
            report.write_json(options.json, bench.device, {**fields, **results})

    def finish() -> None:
        write()
        _print(
            f"{options.preset}, {bench.config.n_params() / 1e6:.1f} M parameters, "
            f"{options.accumulation} × {bench.micro_batch} × {bench.config.block_size} tokens, "
            f"{str(bench.dtype).removeprefix('torch.')}; {report.headline(bench.device)}; "
            f"MFU of {peak}",
            rows(),
        )
        for name, reason in timer.failures.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)

    with report.reporting(finish, timer.failures):
        timer.run(options.rounds, BUDGET_S)
        write()  # a crash of the profiler would take the rates along
        for name, seconds in timer.seconds.items():
            step_seconds = statistics.median(seconds) / options.steps
            try:
                details[name] = {
                    "peak_bytes": peak_bytes(bench, everything[name]),
                    "seconds_by_part": seconds_by_part(bench, everything[name], step_seconds),
                }
            except Exception as error:
                timer.failures[name] = interleaved.in_a_line(error)
    return 1 if timer.failures else 0


def _bench(options: Options) -> Bench:
    device = pick_device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()
    run = from_preset(options.preset)
    config = dataclasses.replace(run.model(options.vocab_size), dropout=0.0)
    dtype = getattr(torch, pick_dtype(options.dtype, device, config.n_embd))
    micro_batch = options.micro_batch
    if micro_batch is None:
        plain = dataclasses.replace(run, compile=False, dropout=0.0)
        memory = gpu_memory(device)
        plan = Plan.of(plain, options.vocab_size, device.type, dtype, "eager", memory=memory)
        free = free_memory(device).free
        if options.nanogpt and device.type == "cuda":
            free -= 12 * config.n_params()  # its own weights and moments, in fp32
        most = max(1, MICRO_BATCH_TOKENS // config.block_size)
        micro_batch = min(most, plan.largest_micro_batch(free))
    return Bench.of(config, device, dtype, micro_batch, options.accumulation)


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    report.print_table(
        title,
        ("", "tokens/s", "20–80 %", "MFU, causal", "MFU, as nanoGPT", "peak MB"),
        [
            (
                row["subject"],
                *report.cells(Spread(**row["tokens_per_second"]), decimals=0),
                f"{row['mfu_causal']:.1%}",
                f"{row['mfu_nanogpt']:.1%}",
                f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else "",
            )
            for row in rows
        ],
    )
    profiled = [row for row in rows if "seconds_by_part" in row]
    if profiled:
        report.print_table(
            "where the time of a step goes, in ms",
            ("", *(row["subject"] for row in profiled)),
            [
                (part, *(f"{1e3 * row['seconds_by_part'][part]:,.1f}" for row in profiled))
                for part in [*PARTS, OTHER, "idle"]
            ],
        )


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main(tyro.cli(Options))))
