"""What the GPU allows, by the planner: the micro-batch that fits, and the bound on the rate.

Imports torch, through the planner: only where the model's shape, the batch and a GPU with a data
sheet are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pygpt.config import GPTConfig, TrainConfig, from_preset
from pygpt.planning.cards import Card
from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.findings.model import meant
from pygpt.reporting.findings.speed import card_of, tokens_per_second
from pygpt.reporting.language import msg
from pygpt.utils import cli
from pygpt.utils.errors import InputError

SHARE = 0.5
"""Of the bound: what the hours of a run are given at, as in `train --dry-run`."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step of a model on a GPU."""

    micro_batch: int
    accumulation: int
    bound: float
    """Tokens per second that the data sheet allows."""
    binds: str
    """The part of a step that takes longest at the bound."""


def findings(subject: Subject) -> Iterator[Finding]:
    """The run's model on its GPU, then the model that may have been meant."""
    log, model, card = subject.log, subject.model, card_of(subject.log)
    batch = log.facts.batch_tokens
    if model is None or card is None or batch is None:
        return
    step = _plan(model, card, batch)
    if step is None:
        yield Finding("memory", "problem", msg("No sequence of this model fits into the {gpu}.",
                                               gpu=card.name))  # fmt: skip
        return
    rate = tokens_per_second(log)
    yield Finding(
        "memory",
        "note",
        msg("A micro-batch of {micro} fits into the {gpu}, {times} of them a step.",
            micro=step.micro_batch, gpu=card.name, times=step.accumulation),
        msg("The data sheet allows {bound:,.0f} tokens/s at most; the largest part of a step is: "
            "{binds}.", bound=step.bound, binds=step.binds),
        source="pygpt.planning: memory, roofline",
        command=cli.command("train", "--dry-run", "--card", card.name),
    )  # fmt: skip
    if rate:
        yield Finding(
            "roofline",
            "note",
            msg("It ran at {share:.0%} of what the data sheet allows for this model.",
                share=rate / step.bound),
            source="pygpt.planning.roofline",
        )  # fmt: skip
    named = meant(model)
    if named is None:
        return
    real = dataclasses.replace(model, n_embd=named.width)
    plan, tokens = _plan(real, card, batch), log.tokens
    if plan and tokens:
        yield Finding(
            "real_size",
            "note",
            msg("{name} itself on the {gpu}: micro-batch {micro}, accumulation {times}, and at "
                "{share:.0%} of the bound {hours:.0f} hours for the same tokens.",
                name=named.name, gpu=card.name, micro=plan.micro_batch, times=plan.accumulation,
                share=SHARE, hours=tokens / (SHARE * plan.bound) / 3600),
            source="pygpt.planning: memory, roofline",
            command=cli.command(
                "train", "--preset", named.preset, "--dry-run", "--card", card.name
            ),
        )  # fmt: skip


def _plan(model: GPTConfig, card: Card, batch_tokens: int) -> _Step | None:
    """The largest micro-batch in bf16 without further flags; None where none fits."""
    import torch

    from pygpt.ops.dispatch import Implementations
    from pygpt.planning.memory import CONTEXT_BYTES, Plan
    from pygpt.planning.roofline import step_bound

    shape = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(GPTConfig)
        if field.name != "vocab_size"
    }
    batch = max(1, batch_tokens // model.block_size) * model.block_size
    config: TrainConfig = dataclasses.replace(
        from_preset("gpt2"), **shape, batch_tokens=batch, compile=False
    )
    impl = str(Implementations.parse("auto").resolve(torch.device("cuda"), model))
    plan = Plan.of(config, model.vocab_size, "cuda", torch.bfloat16, impl, memory=card.memory)
    try:
        micro_batch = plan.largest_micro_batch(card.memory - CONTEXT_BYTES)
    except InputError:
        return None
    parts = step_bound(model, card, micro_batch=micro_batch, batch_tokens=batch)
    return _Step(
        micro_batch,
        config.accumulation(micro_batch),
        1 / sum(parts.values()),
        max(parts, key=lambda name: parts[name]),
    )
