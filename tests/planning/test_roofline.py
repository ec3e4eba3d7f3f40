"""The bound on the time of a step."""

import pytest

from pygpt.config import GPTConfig
from pygpt.planning.cards import named_card
from pygpt.planning.roofline import mfu_bound, step_bound


def test_parts_of_the_bound_are_those_counted_by_hand() -> None:
    # 124 M on an RTX 4070: GEMMs 72·L·C² and 6·V·C operations, the loss's two bf16 passes over V
    # and the head's fp32 gradient read and written for every 2,048 tokens.
    config, card = GPTConfig(bias=False), named_card("NVIDIA GeForce RTX 4070")
    bound = step_bound(config, card, micro_batch=8, batch_tokens=2**19)
    assert bound["block GEMMs"] == pytest.approx(72 * 12 * 768**2 / 58.3e12)
    assert bound["head GEMMs"] == pytest.approx(6 * 50304 * 768 / 58.3e12)
    assert bound["loss"] == pytest.approx((4 + 8 * 768 / 2048) * 50304 / 504e9)
    assert 0.7 < mfu_bound(config, card, bound, causal=True) < 1
    again = step_bound(config, card, micro_batch=8, batch_tokens=2**19, checkpointing=True)
    assert again["block GEMMs"] == pytest.approx(4 / 3 * bound["block GEMMs"])
    assert again["head GEMMs"] == bound["head GEMMs"]
    offloaded = step_bound(config, card, micro_batch=8, batch_tokens=2**19, offload=True)
    # AdamW and the copy of its result: 32 bytes a parameter and up to 4 through 40 GB/s.
    seconds = offloaded["optimizer"] * 2**19
    assert 32 < seconds / config.n_params() * 40e9 < 32 + 4 + 16 / 504 * 40
    assert offloaded["weight handling"] < bound["weight handling"]
