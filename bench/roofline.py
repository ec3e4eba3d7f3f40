"""Upper bound of the training speed of a GPU, by arithmetic, for every GPT-2-class preset.

    python bench/roofline.py
    python bench/roofline.py --card "RTX 4090"

Arithmetic and no measurement: bytes and operations of pygpt's kernels over the data sheet's rates.
The formulas, part by part, are in `pygpt.planning.roofline`; the memory behind the micro-batch
is counted in `pygpt.planning.memory`.
"""

from __future__ import annotations

import dataclasses

import torch
import tyro
from lib import report

from pygpt.config import GPTConfig, TrainConfig, from_preset, preset_names
from pygpt.ops.dispatch import Implementations
from pygpt.planning.cards import Card, named_card
from pygpt.planning.memory import CONTEXT_BYTES, Plan
from pygpt.planning.roofline import HOST_BANDWIDTH, PCIE_BANDWIDTH, mfu_bound, step_bound
from pygpt.utils import cli
from pygpt.utils.errors import InputError

VOCAB_SIZE = GPTConfig.vocab_size
LEFT_OUT = ("stdlib-cpu", "stdlib-gpu", "shakespeare-char")  # small vocabularies, small runs

# Of a row by its flags: --checkpoint-activations, --offload-optimizer.
NAMES = {
    (False, False): "",
    (True, False): "  recomputed",
    (False, True): "  offloaded",
    (True, True): "  both",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Upper bound of the training speed of a GPU, by arithmetic, for every GPT-2-class preset."""

    card: str = "RTX 4070"
    """A GPU whose data sheet pygpt has."""


def main() -> None:
    """Print the table."""
    card = named_card(tyro.cli(Options).card)
    print(
        f"{card}. Arithmetic and no measurement.\n"
        "fits: the largest micro-batch, in sequences, that is planned into the memory less "
        f"{CONTEXT_BYTES >> 20} MiB for CUDA and a desktop,\nand GiB what it takes (1 sequence if "
        f"none fits); bf16, compiled, vocabulary {VOCAB_SIZE:,}; recomputed: with "
        "--checkpoint-activations;\noffloaded: with --offload-optimizer, for presets that do not "
        f"fit without it, at {PCIE_BANDWIDTH / 1e9:.0f} GB/s to the GPU and "
        f"{HOST_BANDWIDTH / 1e9:.0f} GB/s of the machine's memory (assumed)."
    )
    rows = [
        row
        for name in preset_names()
        if name not in LEFT_OUT
        for row in _rows(from_preset(name), card)
    ]
    report.print_table(
        "µs a token by part, at the least", list(rows[0]), [list(row.values()) for row in rows]
    )


def _rows(config: TrainConfig, card: Card) -> list[dict[str, str]]:
    """One preset, with and without recomputation; the optimiser on the host where it has to be."""
    config = dataclasses.replace(config, compile=True)
    impl = str(Implementations().resolve(torch.device("cuda"), config.model(VOCAB_SIZE)))
    plan = Plan.of(config, VOCAB_SIZE, "cuda", torch.bfloat16, impl, memory=card.memory)
    plans = plan.alternatives()
    on_card = [plan for plan in plans if not plan.offload]
    if not any(plan.fits(1, card.memory - CONTEXT_BYTES) for plan in on_card):
        on_card = plans
    return [_row(config, plan, card) for plan in on_card]


def _row(config: TrainConfig, plan: Plan, card: Card) -> dict[str, str]:
    """One preset with one choice of flags; parts in µs a token."""
    try:
        micro_batch = plan.largest_micro_batch(card.memory - CONTEXT_BYTES)
        fits = str(micro_batch)
    except InputError:
        micro_batch, fits = 1, "none"
    bound = step_bound(
        plan.model,
        card,
        micro_batch=micro_batch,
        batch_tokens=config.batch_tokens,
        checkpointing=plan.checkpointing,
        offload=plan.offload,
    )
    total = sum(bound.values())
    return {
        "preset": NAMES[plan.checkpointing, plan.offload] or config.preset,
        "fits": fits,
        "GiB": f"{plan.estimate(micro_batch).total / 2**30:.1f}",
        **{part: f"{1e6 * seconds:.2f}" for part, seconds in bound.items()},
        "total": f"{1e6 * total:.2f}",
        "tokens/s": f"{1 / total:,.0f}",
        "MFU, causal": f"{mfu_bound(plan.model, card, bound, causal=True):.0%}",
        "MFU, nanoGPT's": f"{mfu_bound(plan.model, card, bound, causal=False):.0%}",
    }


if __name__ == "__main__":
    cli.run(main)
