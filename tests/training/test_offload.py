"""AdamW on the host: the same run as without it, in what it computes, saves and goes on from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt.config import GPTConfig, TrainConfig
from pygpt.hub.stored import read_tensors
from pygpt.model import GPT
from pygpt.planning import resolve
from pygpt.runs.run import Run
from pygpt.training.offload import OffloadedUpdater
from pygpt.training.optimizer import Updater
from pygpt.utils.errors import InputError
from tests.helpers.updates import update

TINY = """
    --preset shakespeare-char --n-layer 2 --n-head 2 --n-embd 16 --block-size 32 --dropout 0.1
    --batch-tokens 256 --micro-batch 2 --max-steps 8 --warmup-steps 2 --eval-interval 4
    --eval-tokens 256 --checkpoint-interval 4 --device cpu --dtype bfloat16 --bias
    --learning-rate 1e-2 --min-lr 1e-3
""".split()
OFFLOAD = "--offload-optimizer"


def assert_equal_runs(a: Run, b: Run) -> None:
    """The same losses, norms, weights and moments, to the last bit."""
    for name in ("train_loss", "val_loss", "grad_norm"):
        of_a, of_b = ([line.get(name) for line in run.read_metrics()] for run in (a, b))
        assert of_a == of_b, name
    for file in ("model.safetensors", "optimizer.safetensors"):
        tensors, others = (stored(run, file) for run in (a, b))
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, others[name]), name


def stored(run: Run, file: str) -> dict[str, torch.Tensor]:
    newest = run.newest_checkpoint()
    assert newest
    return read_tensors(newest / file)


# On a CPU both ways compute with the same operations in the same order. What differs is where
# numbers lie, so that anything but equality is a fault.
@pytest.mark.parametrize(
    "flags", [(), ("--compile", "True", "--dropout", "0"), ("--checkpoint-activations",)]
)
def test_a_run_is_the_same_with_the_optimizer_on_the_host(
    run_train: Callable[..., Run], flags: tuple[str, ...]
) -> None:
    torch.compiler.reset()
    assert_equal_runs(run_train("on device", *flags), run_train("on host", OFFLOAD, *flags))


def test_resumed_equals_never_stopped_with_it_and_without(run_train: Callable[..., Run]) -> None:
    steps = ("--lr-decay-steps", "40", "--max-steps")
    whole = run_train("whole", *steps, "40", OFFLOAD)
    run_train("same", *steps, "20", OFFLOAD)
    assert_equal_runs(whole, run_train("same", *steps, "40", "--resume"))
    run_train("left", *steps, "20", OFFLOAD)
    assert_equal_runs(whole, run_train("left", *steps, "40", "--resume", "--no-offload-optimizer"))
    run_train("taken up", *steps, "20")
    assert_equal_runs(whole, run_train("taken up", *steps, "40", "--resume", OFFLOAD))


def small_model(seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(block_size=16, vocab_size=64, n_layer=2, n_head=2, n_embd=32))


def accumulate(model: GPT, ids: torch.Tensor) -> None:
    """Gradients of many micro-batches of one sequence."""
    for x, y in zip(*ids, strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(x[None], y[None]) / ids.size(1)
        loss.backward()  # type: ignore[no-untyped-call]


def test_many_micro_batches_are_summed_in_fp32(seed: int) -> None:
    model = small_model(seed)
    updater = OffloadedUpdater(model, TrainConfig())
    weight = model.get_parameter("h.0.mlp.c_fc.weight")
    assert weight.dtype == torch.bfloat16
    # A sum in bf16 stops at 256 · 1 + 1 = 256; gradients of one micro-batch are exact here.
    for _ in range(1000):
        weight.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(updater._sums[weight], torch.full(weight.shape, 1000.0))


def test_gradients_are_those_of_autocast(seed: int) -> None:
    ids = torch.randint(64, (2, 40, 16), generator=torch.Generator().manual_seed(seed))
    plain, offloaded = small_model(seed), small_model(seed)
    updater = OffloadedUpdater(offloaded, TrainConfig())
    for model in (plain, offloaded):
        accumulate(model, ids)
    for (name, a), b in zip(plain.named_parameters(), offloaded.parameters(), strict=True):
        assert a.grad is not None
        assert updater._sums[b].dtype == torch.float32
        assert torch.equal(a.grad, updater._sums[b]), name


def test_a_step_clears_the_gradients_and_keeps_their_memory(seed: int) -> None:
    model = small_model(seed)
    updater = OffloadedUpdater(model, TrainConfig())
    accumulate(model, torch.randint(64, (2, 2, 16)))
    before = {p: total.data_ptr() for p, total in updater._sums.items()}
    update(updater, 1e-3)
    for parameter, total in updater._sums.items():
        assert parameter.grad is None
        assert total.data_ptr() == before[parameter]
        assert not total.any()


class LateStream:
    """A GPU's stream at its slowest: a copy is done when someone waits for it and no earlier."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def method(self) -> Callable[..., torch.Tensor]:
        """What takes the place of `torch.Tensor.copy_`."""
        original = torch.Tensor.copy_

        def copy_(
            into: torch.Tensor, source: torch.Tensor, non_blocking: bool = False
        ) -> torch.Tensor:
            if not non_blocking:
                return original(into, source)
            self.waiting.append(lambda: original(into.detach(), source.detach()))
            return into

        return copy_

    def run(self, copies: int) -> None:
        for copy in self.waiting[:copies]:
            copy()
        del self.waiting[:copies]


class LateEvent:
    """Recorded in a `LateStream`: waiting for it does what was asked for before, in order."""

    def __init__(self, stream: LateStream) -> None:
        self.stream = stream

    def record(self) -> None:
        self.stream.waiting.append(self.done)

    def done(self) -> None:
        """A mark in the queue."""

    def synchronize(self) -> None:
        self.stream.run(self.stream.waiting.index(self.done) + 1)


def test_a_step_waits_for_what_it_reads_and_overwrites_nothing_on_its_way(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    updaters, models = [], []
    for _ in range(2):
        models.append(small_model(seed))
        updaters.append(OffloadedUpdater(models[-1], TrainConfig(learning_rate=1e-2)))
    stream = LateStream()
    for slot in updaters[1]._slots:
        slot._arrived = LateEvent(stream)  # type: ignore[assignment]
    for _ in range(3):
        ids = torch.randint(64, (2, 2, 16))
        for model, updater in zip(models, updaters, strict=True):
            accumulate(model, ids)
            with monkeypatch.context() as patch:
                if updater is updaters[1]:
                    patch.setattr(torch.Tensor, "copy_", stream.method())
                update(updater, 1e-2)
            stream.run(len(stream.waiting))  # the next forward is behind them in the stream
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(
        updaters[0].weights.parameters(), updaters[1].weights.parameters(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [Updater, OffloadedUpdater])
def test_released_model_has_the_weights_in_fp32(seed: int, kind: type[Updater]) -> None:
    model = small_model(seed)
    updater = kind(model, TrainConfig())
    accumulate(model, torch.randint(64, (2, 2, 16)))
    update(updater, 1e-3)
    updater.release()
    for parameter, weight in zip(model.parameters(), updater.weights.parameters(), strict=True):
        assert parameter.grad is None
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weight)


def test_fp32_is_refused(run_train: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dtype is float32; give --dtype bfloat16, or leave"):
        run_train("fp32", OFFLOAD, "--dtype", "float32")
    assert not (tmp_path / "fp32").exists()


def test_fp32_that_auto_stands_for_is_refused(
    run_train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "pick_dtype", lambda *_: "float32")
    with pytest.raises(InputError, match="dtype is float32; give --dtype bfloat16, or leave"):
        run_train("auto", OFFLOAD, "--dtype", "auto")
    assert not (tmp_path / "auto").exists()


@pytest.mark.parametrize("flags", [(), (OFFLOAD,)])
def test_out_of_memory_in_the_middle_of_a_batch_leaves_no_gradient(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    never_short = run_train("never", "--dropout", "0", *flags)
    original, calls = GPT.loss, []

    def loss(model: GPT, *args: Any, **options: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, *args, **options)

    monkeypatch.setattr(GPT, "loss", loss)
    halved = run_train("halved", "--dropout", "0", "--micro-batch", "4", *flags)
    assert_equal_runs(never_short, halved)
    assert halved.config().micro_batch == 2
