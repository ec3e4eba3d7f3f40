"""float16: the loss is scaled, a step that overflows is skipped, and a run resumes exactly."""

from collections.abc import Callable

import pytest
import torch

from pygpt.config import TrainConfig
from pygpt.hub.stored import read_tensors
from pygpt.planning.resolve import Machine, resolve
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.training.optimizer import Updater
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 32 --block-size 32 --dropout 0
    --batch-tokens 256 --micro-batch 4 --max-steps 8 --warmup-steps 2 --lr-decay-steps 8
    --eval-interval 4 --eval-tokens 256 --checkpoint-interval 4 --device cpu --track=
""".split()


def losses(run: Run) -> list[float]:
    return [line["train_loss"] for line in run.read_metrics()]


def test_it_trains_as_float32_does(run_train: Callable[..., Run]) -> None:
    half, full = (run_train(name, "--dtype", name) for name in ("float16", "float32"))
    # GEMM inputs are rounded to 11 bits. Their errors average out in a sum: one rounding, relative
    # to the loss, is more than is seen.
    for a, b in zip(losses(half), losses(full), strict=True):
        assert abs(a - b) < 2**-11 * b
    lines = half.read_metrics()
    assert {line["loss_scale"] for line in lines} == {65536.0}
    assert lines[-1]["skipped_steps"] == 0
    assert "loss_scale" not in full.read_metrics()[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_overflows_is_skipped_and_the_scale_halved(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    original = Updater.__init__

    def overflowing(self: Updater, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        self._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)

    monkeypatch.setattr(Updater, "__init__", overflowing)
    flags = ("--dtype", "float16", "--optimizer", optimizer)
    run = run_train("overflows", *flags, "--max-steps", "1", "--lr-decay-steps", "8")
    newest = run.newest_checkpoint()
    assert newest
    (line,) = run.read_metrics()
    assert (line["skipped_steps"], line["loss_scale"]) == (1, 2.0**39)
    assert "grad_norm" not in line
    state = checkpoint.read_state(newest)
    assert state.skipped_steps == 1
    assert state.scaling
    assert state.scaling["scale"] == 2.0**39
    monkeypatch.setattr(Updater, "__init__", original)
    other = run_train("starts", *flags, "--max-steps", "1", "--learning-rate", "1e-9",
                      "--min-lr", "1e-9", "--weight-decay", "0")  # fmt: skip
    a, b = (
        read_tensors(each.checkpoints / newest.name / "model.safetensors") for each in (run, other)
    )
    # No weight changed: those of a rate that is far below their last bit.
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-8) for name in a)
    resumed = run_train("overflows", "--resume", "--max-steps", "2")
    assert resumed.read_metrics()[-1]["loss_scale"] <= 2.0**39
    assert resumed.read_metrics()[-1]["skipped_steps"] >= 1


def test_resumed_equals_never_stopped(run_train: Callable[..., Run]) -> None:
    whole = run_train("whole", "--dtype", "float16")
    run_train("parts", "--dtype", "float16", "--max-steps", "4")
    parts = run_train("parts", "--resume", "--max-steps", "8")
    assert losses(whole) == losses(parts)
    states = [
        checkpoint.read_state(path) for run in (whole, parts) if (path := run.newest_checkpoint())
    ]
    assert states[0].scaling == states[1].scaling
    assert states[0].scaling
    assert states[0].scaling["_growth_tracker"] == 8


def test_what_does_not_go_with_it_is_refused() -> None:
    machine = Machine.here(torch.device("cpu"))
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "batch_tokens": 256}
    config = TrainConfig(dtype="float16", device="cpu", **shape)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--parallel fsdp has no loss scaling"):
        resolve(config, 320, machine, ranks=2, parallel="fsdp")
    assert resolve(config, 320, machine, ranks=2).parallel == "ddp"
    native = TrainConfig(dtype="float16", device="cpu", impl="gelu=native", **shape)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="native ops take float32 and bfloat16"):
        resolve(native, 320, machine)
    with pytest.raises(InputError, match="dtype is float16; give --dtype bfloat16"):
        TrainConfig(dtype="float16", offload_optimizer=True)
