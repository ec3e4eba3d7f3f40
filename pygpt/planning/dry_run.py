"""What a training run needs in memory and at least in time, before anything is built."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from pygpt.config import GPTConfig, TrainConfig
from pygpt.planning.hardware import pick_device
from pygpt.planning.memory import Estimate, Plan
from pygpt.planning.resolve import Machine, ResolvedConfig, resolve
from pygpt.planning.roofline import HOST_BANDWIDTH, PCIE_BANDWIDTH, step_bound
from pygpt.utils.cli import say
from pygpt.utils.format import duration

SHARE = 0.5
"""Of the bound: the second time that is printed."""


def report(
    console: Console,
    config: TrainConfig,
    vocab_size: int | None,
    card: str | None = None,
    ranks: int = 1,
    parallel: Literal["auto", "ddp", "fsdp"] = "auto",
) -> None:
    """Print memory by part, the micro-batch that fits, and the least time, as one table.

    Args:
        console: where to.
        config: the run.
        vocab_size: rows of the embedding table; None assumes GPT-2's, and says so.
        card: name of the GPU to estimate for; None is this machine.
        ranks: processes that share the batch, each with such a GPU.
        parallel: how they share the model.

    Raises:
        InputError: no such card or device, or a batch that does not divide.
    """
    assumed = "" if vocab_size else " (GPT-2's, assumed: no --data is named)"
    machine = Machine.by_data_sheet(card) if card else Machine.here(pick_device(config.device))
    vocab_size = vocab_size or GPTConfig().vocab_size
    run = resolve(config, vocab_size, machine, check_memory=False, ranks=ranks, parallel=parallel)
    model = run.model
    say(
        console,
        f"{config.preset}: {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, "
        f"context {model.block_size}, vocabulary {model.vocab_size:,}{assumed}: "
        f"{model.n_params() / 1e6:.2f} M parameters",
    )
    say(console, f"{machine}" if card else f"{machine}; {run.peak}")
    dtype = str(run.dtype).removeprefix("torch.")
    say(console, f"{dtype}{', compiled' if run.compile else ''}; {run.impl}")
    if ranks > 1:
        say(console, f"each of {ranks} processes ({run.parallel}); time without communication:")
    choices = [_Choice.of(config, run, plan, machine) for plan in run.plan().alternatives()]
    console.print(_table(choices))
    say(console, _advice(choices))
    say(
        console,
        "Memory is counted tensor by tensor, within 10 %. Time is computed, not measured: "
        + (
            "the operations and bytes of each part over the GPU's rates."
            if machine.card
            else "the model's operations over the peak rate."
        ),
    )
    if machine.card and len(choices) > 2:
        say(
            console,
            f"--offload-optimizer is estimated with {PCIE_BANDWIDTH / 1e9:.0f} GB/s to the GPU "
            f"and {HOST_BANDWIDTH / 1e9:.0f} GB/s of host memory, both assumed.",
        )


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The run with one choice of the flags that save memory."""

    run: ResolvedConfig
    fits: bool
    rate: float
    """Upper bound of tokens per second."""

    @classmethod
    def of(cls, config: TrainConfig, run: ResolvedConfig, flags: Plan, machine: Machine) -> _Choice:
        config = dataclasses.replace(
            run.config,
            micro_batch=config.micro_batch,
            checkpoint_activations=flags.checkpointing,
            offload_optimizer=flags.offload,
        )
        run = resolve(config, run.model.vocab_size, machine, check_memory=False, ranks=run.ranks)
        plan = run.plan()
        host = plan.estimate(run.micro_batch).host
        fits = plan.fits(run.micro_batch, machine.free) and host <= machine.host_free
        return cls(run, fits, _tokens_per_second(run, machine))

    def rows(self) -> dict[str, str]:
        """The column of the table, by name, in the order to print."""
        config = self.run.config
        steps = config.max_steps
        seconds = steps * config.batch_tokens / self.rate
        return {
            "sequences at once": str(self.run.micro_batch),
            "times a step": str(self.run.accumulation),
            "fits": "yes" if self.fits else "no",
            **_memory_rows(self.run.plan().estimate(self.run.micro_batch)),
            "bound on tokens/s": f"{self.rate:,.0f}",
            f"{steps:,} steps at it": duration(seconds),
            f"at {SHARE:.0%} of it": duration(seconds / SHARE),
        }


def _table(choices: list[_Choice]) -> Table:
    titles = ("no flag", "--checkpoint-\nactivations", "--offload-\noptimizer", "both")
    table = Table("", *titles[: len(choices)])
    columns = [choice.rows() for choice in choices]
    for name in columns[0]:
        if name in ("parameters", "peak", "bound on tokens/s"):
            table.add_section()
        cells = [column[name] for column in columns]
        if set(cells) != {"0 MiB"}:
            table.add_row(name, *cells)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _advice(choices: list[_Choice]) -> str:
    fitting = [choice for choice in choices if choice.fits]
    if not fitting:
        return "Nothing here fits; a shorter --block-size or a smaller model would."
    best = max(fitting, key=lambda choice: choice.rate)
    return f"Of what fits, the bound is highest with {best.run.plan().flags or 'no flag'}."


def _memory_rows(estimate: Estimate) -> dict[str, str]:
    rows = {
        field.name.replace("_", " "): f"{getattr(estimate, field.name) / 2**20:,.0f} MiB"
        for field in dataclasses.fields(estimate)
    }
    # The loss and the backward come one after the other: only the larger counts.
    smaller = "loss" if estimate.loss < estimate.backward else "backward"
    rows[smaller] = f"({rows[smaller]})"
    host = rows.pop("host")
    return rows | {"peak": f"{estimate.total / 2**20:,.0f} MiB", "machine's memory": host}


def _tokens_per_second(run: ResolvedConfig, machine: Machine) -> float:
    if machine.card is None or run.dtype != torch.bfloat16:
        return run.ranks * run.peak.flops / run.model.flops_per_token(causal=True)
    bound = step_bound(
        run.model,
        machine.card,
        micro_batch=run.micro_batch,
        batch_tokens=run.config.batch_tokens // run.ranks,
        checkpointing=run.config.checkpoint_activations,
        offload=run.config.offload_optimizer,
    )
    return run.ranks / sum(bound.values())
