"""What several GPUs exchange: the formulas against tensors that are counted."""

import pytest

from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.planning.communication import Network, bytes_per_step, step_seconds

CONFIG = GPTConfig(block_size=16, vocab_size=64, n_layer=3, n_head=2, n_embd=16)
NETWORK = Network(within=100e9, between=10e9, latency=0.0)


def test_bytes_are_those_of_the_parameters() -> None:
    model = GPT(CONFIG, "eager")
    whole = sum(p.nbytes for p in model.parameters())
    blocks = sum(p.nbytes for p in model.h.parameters())
    assert bytes_per_step(CONFIG, "ddp", 1, 4) == bytes_per_step(CONFIG, "fsdp", 1, 4) == 0
    assert bytes_per_step(CONFIG, "ddp", 4, 1) == bytes_per_step(CONFIG, "ddp", 4, 9)
    assert bytes_per_step(CONFIG, "ddp", 4, 1) == 2 * whole * 3 / 4
    # Gathered twice a micro-batch but for the embeddings, and reduced once.
    assert bytes_per_step(CONFIG, "fsdp", 4, 2) == (2 * (whole + blocks) + whole) * 3 / 4


def test_what_is_hidden_takes_no_time() -> None:
    exchange = bytes_per_step(CONFIG, "ddp", 8, 1) / 100e9
    assert step_seconds(CONFIG, "ddp", 1, 1, 0.1, NETWORK) == 0.1
    assert step_seconds(CONFIG, "ddp", 8, 1, 0.1, NETWORK) == 0.1
    # With no time to hide behind, all of it shows; across machines the slower link counts.
    assert step_seconds(CONFIG, "ddp", 8, 1, 0.0, NETWORK) == pytest.approx(exchange)
    across = bytes_per_step(CONFIG, "ddp", 16, 1) / 10e9
    assert step_seconds(CONFIG, "ddp", 16, 1, 0.0, NETWORK) == pytest.approx(across)
    # Only the last micro-batch's backward hides DDP's exchange.
    half = step_seconds(CONFIG, "ddp", 16, 4, across, NETWORK)
    assert half == pytest.approx(across + across * (1 - 2 / 3 / 4))
