"""What "auto" becomes."""

import dataclasses

import torch

from pygpt.config import TrainConfig
from pygpt.planning.resolve import Machine, resolve

CONFIG = TrainConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=32, batch_tokens=256, micro_batch=2, max_steps=4,
    warmup_steps=2, device="cpu", dtype="float32", impl="eager", compile=False, learning_rate=1e-2,
    min_lr=1e-3, grad_clip=0.5,
)  # fmt: skip


def test_nothing_is_auto_after_resolving() -> None:
    auto = dataclasses.replace(
        CONFIG, device="auto", dtype="auto", impl="auto", micro_batch="auto", compile="auto"
    )
    run = resolve(auto, 320, Machine.here(torch.device("cpu")))
    assert "auto" not in dataclasses.astuple(run.impl)
    assert run.micro_batch == run.config.micro_batch
    assert run.compile is run.config.compile
    assert run.config.lr_decay_steps == auto.max_steps
    assert 'auto"' not in run.config.as_toml().replace('preset = "auto"', "")
