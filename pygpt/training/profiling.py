"""`train --profile` and `--memory-snapshot`: where the time of a step goes, and the memory."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, schedule

from pygpt.planning.hardware import card_of
from pygpt.planning.resolve import ResolvedConfig
from pygpt.planning.roofline import step_bound
from pygpt.runs.run import Run
from pygpt.utils.cli import say
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before the first that is profiled: they allocate, and kernels are compiled in them."""
TOP = 15
"""Ops in the table."""

# The parts of `pygpt.planning.roofline.step_bound`; an op belongs to the first that matches.
_PARTS = {
    "optimizer": r"adam|muon|foreach|lerp|clip_grad",
    "attention": r"attention|attn|flash|sdpa",
    "loss": r"cross_entropy|softmax|nll_loss",
    "layer norms": r"layer_norm",
    "GELU": r"gelu",
    "GEMMs": r"mm\b|mm_|gemm|linear|matmul|cutlass|mkldnn|onednn",
}
OTHER = "weight handling and others"


class Profiler:
    """Profiles some steps of a run with torch.profiler.

    Args:
        steps: how many; None profiles nothing.
        run: the directory; the trace goes to ``profile/``.
        resolved: the run, for the roofline.
        console: where the table is printed.
    """

    def __init__(
        self, steps: int | None, run: Run, resolved: ResolvedConfig, console: Console
    ) -> None:
        self._steps = steps or 0
        self._run = run
        self._resolved = resolved
        self._console = console
        self._profile: profile | None = None
        self._reported = False

    def __enter__(self) -> Profiler:
        if self._steps:
            activities = [ProfilerActivity.CPU]
            if self._resolved.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(
                activities=activities,
                schedule=schedule(wait=0, warmup=WARM_UP, active=self._steps, repeat=1),
                on_trace_ready=self._report,
            )
            self._profile.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._profile:
            self._profile.stop()
            if not self._reported:
                logger.warning(
                    "nothing was profiled: that starts after %d steps, and the run ended before",
                    WARM_UP,
                )

    def after_step(self) -> None:
        """Call after every step."""
        if self._profile:
            self._profile.step()

    def _report(self, finished: profile) -> None:
        """Write the trace and the tables, and print them."""
        self._reported = True
        directory = self._run.path / "profile"
        trace = directory / "trace.json"
        with self._run.writing():
            directory.mkdir(exist_ok=True)
            finished.export_chrome_trace(str(trace))
            tables = self._tables(finished)
            with (directory / "table.txt").open("w", encoding="utf-8") as file:
                for table in tables:
                    Console(file=file, width=120).print(table)
        for table in tables:
            self._console.print(table)
        say(self._console, f"{trace} opens in https://ui.perfetto.dev or chrome://tracing")

    def _tables(self, finished: profile) -> list[Table]:
        on_gpu = self._resolved.device.type == "cuda"
        seconds: dict[str, tuple[float, int]] = {}
        for event in finished.key_averages():
            time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if time and not event.key.startswith("ProfilerStep"):
                seconds[event.key] = (time / 1e6 / self._steps, event.count // self._steps)
        total = sum(time for time, _ in seconds.values())
        return [self._by_part(seconds, total), _by_op(seconds, total)]

    def _by_part(self, seconds: dict[str, tuple[float, int]], total: float) -> Table:
        """Measured time of each part, and what the roofline says that it takes at the least."""
        bounds = self._bounds()
        parts = dict.fromkeys((*_PARTS, OTHER), 0.0)
        for name, (time, _) in seconds.items():
            parts[part_of(name)] += time
        table = Table("part of a step", "ms", "share", "roofline, ms")
        for name, time in parts.items():
            bound = bounds.get(name)
            expected = "" if bound is None else f"{1e3 * bound:.2f}"
            table.add_row(name, f"{1e3 * time:.2f}", f"{time / total:.1%}", expected)
        table.add_section()
        table.add_row("all", f"{1e3 * total:.2f}", "", f"{1e3 * sum(bounds.values()):.2f}")
        for column in table.columns[1:]:
            column.justify = "right"
        return table

    def _bounds(self) -> dict[str, float]:
        """Seconds a step that the parts take at least; for a CPU only what its GEMMs take."""
        run = self._resolved
        tokens = run.config.batch_tokens // run.ranks
        card = card_of(run.device) if run.device.type == "cuda" else None
        if card is None or run.dtype != torch.bfloat16:
            return {"GEMMs": tokens * run.model.flops_per_token(causal=True) / run.peak.flops}
        bound = step_bound(
            run.model,
            card,
            micro_batch=run.micro_batch,
            batch_tokens=tokens,
            checkpointing=run.config.checkpoint_activations,
            offload=run.config.offload_optimizer,
        )
        bound["GEMMs"] = bound.pop("block GEMMs") + bound.pop("head GEMMs")
        bound[OTHER] = bound.pop("weight handling")
        return {name: tokens * seconds for name, seconds in bound.items()}


def part_of(op: str) -> str:
    """The part of a step that an op or a kernel belongs to, by its name."""
    for part, pattern in _PARTS.items():
        if re.search(pattern, op, re.IGNORECASE):
            return part
    return OTHER


def _by_op(seconds: dict[str, tuple[float, int]], total: float) -> Table:
    """The ops that take the most time, without the ops that they call."""
    table = Table("op", "part", "calls a step", "ms", "share")
    slowest = sorted(seconds.items(), key=lambda item: -item[1][0])[:TOP]
    for name, (time, calls) in slowest:
        table.add_row(
            name[:60], part_of(name), str(calls), f"{1e3 * time:.2f}", f"{time / total:.1%}"
        )
    for column in table.columns[2:]:
        column.justify = "right"
    return table


@contextlib.contextmanager
def memory_snapshot(wanted: bool, path: Path) -> Iterator[None]:
    """Record the allocations of a block, and write them also after an error such as out-of-memory.

    https://docs.pytorch.org/docs/stable/torch_cuda_memory.html
    """
    if not wanted:
        yield
        return
    memory: Any = torch.cuda.memory
    memory._record_memory_history(max_entries=100_000)
    try:
        yield
    finally:
        memory._dump_snapshot(str(path))
        memory._record_memory_history(enabled=None)
        logger.info("%s opens in https://pytorch.org/memory_viz", path)


def check_snapshot(device: torch.device) -> None:
    """Raise InputError where --memory-snapshot can't be had."""
    if device.type != "cuda":
        raise InputError(
            f"--memory-snapshot records what CUDA's allocator does, and this run is on {device}; "
            "--dry-run counts the memory of a step, by part"
        )
