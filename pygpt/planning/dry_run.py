"""What a training run would take, in memory and at least in time, before anything is built."""

from __future__ import annotations

import dataclasses
import math

import torch
from rich.console import Console
from rich.table import Table

from pygpt.config import GPTConfig, TrainConfig
from pygpt.ops.dispatch import Implementations
from pygpt.planning.compile import decided
from pygpt.planning.hardware import (
    Card,
    card_of,
    device_name,
    free_memory,
    named_card,
    peak_flops,
    pick_device,
    pick_dtype,
)
from pygpt.planning.memory import CONTEXT_BYTES, Estimate, Plan
from pygpt.planning.roofline import HOST_BANDWIDTH, PCIE_BANDWIDTH, step_bound
from pygpt.utils.cli import say
from pygpt.utils.errors import InputError
from pygpt.utils.format import duration, gib

SHARE = 0.5
"""Of the bound: the second time that is printed."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is reckoned with: a card by its data sheet, or this machine."""

    text: str
    device: str
    """Type of the device."""
    dtype: torch.dtype
    impl: str
    """Resolved."""
    free: int
    """Bytes of memory, of the device."""
    host_free: float
    """Bytes of the machine's memory beside it; without end where it is not here to ask."""
    flops: float
    """Peak rate of the GEMMs."""
    card: Card | None
    """None for a CPU, or a GPU that is not listed."""


def report(console: Console, config: TrainConfig, vocab_size: int | None) -> None:
    """Print memory by part, the micro-batch that fits, and the least time, as one table.

    Args:
        console: where to.
        config: the run.
        vocab_size: rows of the embedding table; None assumes GPT-2's, and says so.

    Raises:
        InputError: no such card or device, or a batch that does not divide.
    """
    assumed = "" if vocab_size else " (GPT-2's, assumed: no --data is named)"
    model = config.model(vocab_size or GPTConfig().vocab_size)
    machine = _named(config.card, config, model) if config.card else _here(config, model)
    say(
        console,
        f"{config.preset}: {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, "
        f"context {model.block_size}, vocabulary {model.vocab_size:,}{assumed}: "
        f"{model.n_params() / 1e6:.2f} M parameters",
    )
    say(console, machine.text)
    config = decided(config, model, machine.device, machine.flops)
    say(
        console,
        f"{machine.dtype}{', compiled' if config.compile else ''}; {machine.impl}".removeprefix(
            "torch."
        ),
    )
    plan = Plan.of(config, model.vocab_size, machine.device, machine.dtype, machine.impl)
    choices = [_Choice.of(config, each, machine) for each in plan.alternatives()]
    console.print(_table(choices))
    say(console, _advice(choices))
    say(
        console,
        "Memory is counted tensor by tensor, within 10 %. Time is arithmetic and no measurement: "
        + (
            "the operations and bytes of each part over the card's rates."
            if machine.card
            else "the model's operations over the peak rate."
        ),
    )
    if machine.card and len(choices) > 2:
        say(
            console,
            f"--offload-optimizer is reckoned with {PCIE_BANDWIDTH / 1e9:.0f} GB/s to the card "
            f"and {HOST_BANDWIDTH / 1e9:.0f} GB/s of machine memory, both assumed.",
        )


@dataclasses.dataclass(frozen=True)
class _Choice:
    """What the run takes with one choice of the flags that save memory."""

    config: TrainConfig
    plan: Plan
    micro_batch: int
    """The one that was asked for or the largest that fits, or 1."""
    fits: bool
    rate: float
    """Tokens per second at the most."""

    @classmethod
    def of(cls, config: TrainConfig, plan: Plan, machine: Machine) -> _Choice:
        config = dataclasses.replace(
            config, checkpoint_activations=plan.checkpointing, offload_optimizer=plan.offload
        )
        micro_batch, fits = _micro_batch(config, plan, machine.free)
        fits = fits and plan.estimate(micro_batch).host <= machine.host_free
        rate = _tokens_per_second(config, plan.model, machine, micro_batch)
        return cls(config, plan, micro_batch, fits, rate)

    def rows(self) -> dict[str, str]:
        """The column of the table, by name, in the order to print."""
        steps = self.config.max_steps
        seconds = steps * self.config.batch_tokens / self.rate
        return {
            "sequences at once": str(self.micro_batch),
            "times a step": str(self.config.accumulation(self.micro_batch)),
            "fits": "yes" if self.fits else "no",
            **_memory_rows(self.plan.estimate(self.micro_batch)),
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
    return f"Of what fits, the bound is highest with {best.plan.flags or 'no flag'}."


def _named(name: str, config: TrainConfig, model: GPTConfig) -> Machine:
    card = named_card(name)
    return Machine(
        text=f"{card}; {gib(CONTEXT_BYTES)} of it taken by CUDA and a desktop (assumed)",
        device="cuda",
        dtype=torch.float32 if config.dtype == "float32" else torch.bfloat16,
        impl=str(Implementations.parse(config.impl).resolve(torch.device("cuda"), model)),
        free=card.memory - CONTEXT_BYTES,
        host_free=math.inf,
        flops=card.flops,
        card=card,
    )


def _here(config: TrainConfig, model: GPTConfig) -> Machine:
    device = pick_device(config.device)
    dtype = getattr(torch, pick_dtype(config.dtype, device, config.n_embd))
    free, peak = free_memory(device), peak_flops(device, dtype)
    return Machine(
        text=f"{device_name(device)}: {peak}, {gib(free)} of memory free",
        device=device.type,
        dtype=dtype,
        impl=str(Implementations.parse(config.impl).resolve(device, model)),
        free=free,
        host_free=free_memory(torch.device("cpu")),
        flops=peak.flops,
        card=card_of(device) if device.type == "cuda" else None,
    )


def _micro_batch(config: TrainConfig, plan: Plan, free: int) -> tuple[int, bool]:
    """The one that was asked for or the largest that fits, or 1; and whether it fits."""
    if config.micro_batch != "auto":
        return config.micro_batch, plan.fits(config.micro_batch, free)
    try:
        return plan.largest_micro_batch(free), True
    except InputError:  # what would be missing is what the table shows
        return 1, False


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


def _tokens_per_second(
    config: TrainConfig, model: GPTConfig, machine: Machine, micro_batch: int
) -> float:
    if machine.card is None or machine.dtype != torch.bfloat16:
        return machine.flops / model.flops_per_token(causal=True)
    bound = step_bound(
        model,
        machine.card,
        micro_batch=micro_batch,
        batch_tokens=config.batch_tokens,
        checkpointing=config.checkpoint_activations,
        offload=config.offload_optimizer,
    )
    return 1 / sum(bound.values())
