"""What a training run would take, in memory and at least in time, before anything is built."""

from __future__ import annotations

import dataclasses

import torch
from rich.console import Console
from rich.table import Table

from pygpt.config import GPTConfig, TrainConfig
from pygpt.display import say
from pygpt.errors import InputError
from pygpt.hardware import (
    Card,
    card_of,
    free_memory,
    named_card,
    peak_flops,
    pick_device,
    pick_dtype,
)
from pygpt.implementations import Implementations
from pygpt.memory import CONTEXT_BYTES, HEADROOM, Estimate, Plan
from pygpt.roofline import step_bound

GPT2_VOCAB = 50304
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
    """Bytes of memory."""
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
    machine = _named(config.card, config) if config.card else _here(config)
    assumed = "" if vocab_size else " (GPT-2's, assumed: no --data is named)"
    model = config.model(vocab_size or GPT2_VOCAB)
    say(
        console,
        f"{config.preset}: {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, "
        f"context {model.block_size}, vocabulary {model.vocab_size:,}{assumed}: "
        f"{model.n_params() / 1e6:.2f} M parameters",
    )
    say(console, machine.text)
    say(
        console,
        f"{machine.dtype}{', compiled' if config.compile else ''}; {machine.impl}".removeprefix(
            "torch."
        ),
    )
    columns = [_column(config, model, machine, checkpointing) for checkpointing in (False, True)]
    table = Table("", "blocks kept", "--checkpoint-activations")
    for name in columns[0] | columns[1]:
        if name in ("parameters", "peak", "bound on tokens/s"):
            table.add_section()
        table.add_row(name, *(column.get(name, "") for column in columns))
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    say(
        console,
        "Memory is counted tensor by tensor, within 10 %. Time is arithmetic and no measurement: "
        + (
            "the operations and bytes of each part over the card's rates."
            if machine.card
            else "the model's operations over the peak rate."
        ),
    )


def _named(name: str | None, config: TrainConfig) -> Machine:
    card = named_card(name or "")
    return Machine(
        text=f"{card}; {_gib(CONTEXT_BYTES)} of it taken by CUDA and a desktop (assumed)",
        device="cuda",
        dtype=torch.float32 if config.dtype == "float32" else torch.bfloat16,
        impl=str(Implementations.parse(config.impl).resolve(torch.device("cuda"))),
        free=card.memory - CONTEXT_BYTES,
        flops=card.flops,
        card=card,
    )


def _here(config: TrainConfig) -> Machine:
    device = pick_device(config.device)
    dtype = getattr(torch, pick_dtype(config.dtype, device, config.n_embd))
    free, peak = free_memory(device), peak_flops(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Machine(
        text=f"{name}: {peak}, {_gib(free)} of memory free",
        device=device.type,
        dtype=dtype,
        impl=str(Implementations.parse(config.impl).resolve(device)),
        free=free,
        flops=peak.flops,
        card=card_of(device) if device.type == "cuda" else None,
    )


def _column(
    config: TrainConfig, model: GPTConfig, machine: Machine, checkpointing: bool
) -> dict[str, str]:
    """What one choice of checkpointing takes, by name, in the order to print."""
    config = dataclasses.replace(config, checkpoint_activations=checkpointing)
    plan = Plan.of(config, model.vocab_size, machine.device, machine.dtype, machine.impl)
    micro_batch, fits = _micro_batch(config, plan, machine.free)
    accumulation = config.accumulation(micro_batch)
    rate = _tokens_per_second(config, model, machine, micro_batch)
    seconds = config.max_steps * config.batch_tokens / rate
    return {
        "sequences at once": f"{micro_batch} × {accumulation} times a step",
        f"within {HEADROOM:.0%} of free memory": "yes" if fits else "no",
        **_memory_rows(plan.estimate(micro_batch)),
        "bound on tokens/s": f"{rate:,.0f}",
        f"{config.max_steps:,} steps at that rate": _duration(seconds),
        f"at {SHARE:.0%} of it": _duration(seconds / SHARE),
    }


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
    return rows | {"peak": f"{estimate.total / 2**20:,.0f} MiB"}


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
    )
    return 1 / sum(bound.values())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
