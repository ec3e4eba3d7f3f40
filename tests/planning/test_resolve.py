"""What "auto" becomes."""

import dataclasses

import pytest
import torch

from pygpt.config import TrainConfig
from pygpt.planning.resolve import Machine, resolve
from pygpt.utils.errors import InputError

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


def test_several_ranks_share_the_batch_and_take_ddp_where_it_fits() -> None:
    config = dataclasses.replace(CONFIG, micro_batch="auto", n_layer=6, n_embd=64)
    machine = Machine.here(torch.device("cpu"))
    run = resolve(config, 320, machine, ranks=4)
    assert (run.parallel, run.ranks, run.rank_sequences, run.micro_batch) == ("ddp", 4, 2, 2)
    assert run.accumulation == 1
    assert resolve(config, 320, machine).parallel == "none"
    whole = run.plan()
    small = dataclasses.replace(machine, free=whole.estimate(1).planned - 1)
    assert resolve(config, 320, small, ranks=4).parallel == "fsdp"
    assert resolve(config, 320, machine, ranks=4, parallel="fsdp").parallel == "fsdp"


def test_fsdp_slices_weights_and_moments_but_not_gradients() -> None:
    config = dataclasses.replace(CONFIG, n_layer=6, n_embd=64, micro_batch=1)
    machine = Machine.here(torch.device("cpu"))
    whole, sliced = (
        resolve(config, 320, machine, ranks=4, parallel=how).plan().estimate(1)
        for how in ("ddp", "fsdp")
    )
    assert sliced.optimizer == whole.optimizer // 4
    assert sliced.gradients == whole.gradients
    model = config.model(320)
    gathered = model.n_params() - 4 * model.n_params_of_block()  # all but four of six blocks
    assert sliced.parameters == whole.parameters // 4 + 4 * gathered


def test_offloading_is_for_one_process() -> None:
    config = dataclasses.replace(CONFIG, dtype="bfloat16", offload_optimizer=True)
    with pytest.raises(InputError, match="for one GPU, and 2 processes train; --parallel fsdp"):
        resolve(config, 320, Machine.here(torch.device("cpu")), ranks=2)
