"""The memory model against the allocator, the micro-batch it chooses, and running out of it."""

import dataclasses
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler import profile

from pygpt import train
from pygpt.config import GPTConfig, TrainConfig, from_preset
from pygpt.data import TokenDataset
from pygpt.evaluation.loss import evaluate
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations
from pygpt.planning.cards import named_card
from pygpt.planning.hardware import free_memory
from pygpt.planning.memory import CONTEXT_BYTES, CPU_TOKENS, Plan, estimate
from pygpt.runs.run import Run
from pygpt.training.offload import OffloadedUpdater
from pygpt.training.optimizer import Updater
from pygpt.utils.errors import InputError
from tests.helpers.parity import gpu
from tests.helpers.updates import update

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")

# Of each another dimension weighs most.
SHAPES = {
    "layers": (GPTConfig(128, 512, n_layer=4, n_head=4, n_embd=128, bias=False), 8),
    "vocabulary": (GPTConfig(64, 8192, n_layer=1, n_head=2, n_embd=64, bias=False), 16),
    "context, biases": (GPTConfig(256, 1024, n_layer=2, n_head=6, n_embd=192), 4),
}


def peak_bytes(
    model: GPT, micro_batch: int, dtype: torch.dtype, compiled: bool, offload: bool
) -> int:
    """The most bytes of tensors alive in a training step of two micro-batches, state included."""
    updater = (OffloadedUpdater if offload else Updater)(model, TrainConfig())
    shape = (2, micro_batch, model.config.block_size)
    inputs, targets = torch.randint(model.config.vocab_size, (2, *shape))
    loss_of = torch.compile(model.loss) if compiled else model.loss

    def step() -> None:
        for x, y in zip(inputs, targets, strict=True):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = loss_of(x, y)
            loss.backward()  # type: ignore[no-untyped-call]
        update(updater, 1e-3)

    if compiled:
        step()
    return peak_of(step, live_tensors(model, updater) + inputs.nbytes + targets.nbytes)


def live_tensors(model: GPT, updater: Updater) -> int:
    """Bytes of all that is there between two steps."""
    tensors: list[Tensor] = list(model.parameters())
    tensors += [t for state in updater.optimizer.state.values() for t in state.values()]
    if isinstance(updater, OffloadedUpdater):
        tensors += [*updater.weights.parameters(), *updater._sums.values()]
        tensors += [slot._memory for slot in updater._slots]
    return sum(t.nbytes for t in tensors)


def peak_of(call: Callable[[], object], live: int) -> int:
    """The most bytes of tensors alive during `call`, which begins with `live` of them."""
    peak = live
    with profile(use_kineto=True, profile_memory=True) as recorded:
        call()
    allocations = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def assert_estimated(config: GPTConfig, micro_batch: int, impl: str, **choice: Any) -> None:
    """Hold the estimate against the allocator, less the state, which is easy to know."""
    resolved = Implementations.parse(impl).resolve(CPU, config)
    model = GPT(config, resolved, checkpoint_activations=choice["checkpointing"])
    expected = estimate(config, micro_batch, device="cpu", impl=resolved, **choice)
    measured = peak_bytes(
        model,
        micro_batch,
        choice["dtype"],
        choice.get("compiled", False),
        choice.get("offload", False),
    )
    assert expected.total - expected.state == pytest.approx(measured - expected.state, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("impl", ["eager", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_estimate_is_within_ten_percent(
    shape: str, dtype: torch.dtype, impl: str, checkpointing: bool
) -> None:
    assert_estimated(*SHAPES[shape], impl, dtype=dtype, checkpointing=checkpointing)


@gpu
@pytest.mark.parametrize(
    ("impl", "checkpointing", "offload"),
    [("eager", False, False), ("auto", False, False), ("auto", True, False), ("auto", False, True)],
)
def test_gpu_estimate_is_within_ten_percent(impl: str, checkpointing: bool, offload: bool) -> None:
    config, micro_batch, device = GPTConfig(n_layer=4), 4, torch.device("cuda")
    resolved = Implementations.parse(impl).resolve(device, config)
    expected = estimate(
        config, micro_batch, device="cuda", dtype=torch.bfloat16, impl=resolved,
        checkpointing=checkpointing, offload=offload,
    )  # fmt: skip
    square = torch.randn(512, 512, device=device)
    for operand in (square, square.bfloat16()):
        operand @ operand  # cuBLAS's own memory is not the step's
    before = torch.cuda.memory_allocated()
    model = GPT(config, resolved, checkpoint_activations=checkpointing).to(device)
    updater = (OffloadedUpdater if offload else Updater)(model, TrainConfig())
    ids = torch.randint(config.vocab_size, (2, 2, micro_batch, config.block_size), device=device)
    for _ in range(2):  # the first one compiles
        torch.cuda.reset_peak_memory_stats()
        for x, y in ids:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model.loss(x, y)
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        update(updater, 1e-3)
    measured = torch.cuda.max_memory_allocated() - before
    assert expected.total - expected.state == pytest.approx(measured - expected.state, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_estimate_with_dropout_is_within_ten_percent(dtype: torch.dtype) -> None:
    config, micro_batch = SHAPES["layers"]
    config = dataclasses.replace(config, dropout=0.1)
    assert_estimated(config, micro_batch, "auto", dtype=dtype, checkpointing=False)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("impl", ["eager", "auto"])
@pytest.mark.parametrize("shape", SHAPES)
def test_estimate_with_the_optimizer_on_the_host_is_within_ten_percent(
    shape: str, impl: str, checkpointing: bool
) -> None:
    assert_estimated(
        *SHAPES[shape], impl, dtype=torch.bfloat16, checkpointing=checkpointing, offload=True
    )


@pytest.mark.parametrize("offload", [False, True])
def test_the_state_is_known_to_the_byte(offload: bool) -> None:
    config = SHAPES["context, biases"][0]
    resolved = Implementations.parse("auto").resolve(CPU, config)
    model = GPT(config)
    updater = (OffloadedUpdater if offload else Updater)(model, TrainConfig())
    gradients = 0 if offload else sum(p.nbytes for p in model.parameters())
    steps = 4 * len(updater.optimizer.state)  # AdamW's own count, a number beside each parameter
    on_cpu, on_gpu = (
        estimate(config, 1, device=each, dtype=torch.bfloat16, impl=resolved, offload=offload)
        for each in ("cpu", "cuda")
    )
    assert on_cpu.state == live_tensors(model, updater) + gradients - steps
    copy_for_checkpoint = 4 * config.n_params() if offload else 0
    assert on_gpu.state + on_gpu.host == on_cpu.state + copy_for_checkpoint


@pytest.mark.parametrize("offload", [False, True])
def test_a_step_of_the_optimizer_allocates_next_to_nothing(offload: bool) -> None:
    model = GPT(SHAPES["layers"][0])
    updater = (OffloadedUpdater if offload else Updater)(model, TrainConfig())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # The first step, in which AdamW would otherwise make its moments.
    assert peak_of(lambda: update(updater, 1e-3), 0) < 64 << 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("impl", "checkpointing", "offload"),
    [("eager", False, False), ("eager", True, False), ("auto", True, False), ("auto", True, True)],
)
def test_estimate_of_a_compiled_step_is_within_ten_percent(
    impl: str, checkpointing: bool, offload: bool
) -> None:
    torch.compiler.reset()  # the graphs of earlier cases count towards a limit
    config, micro_batch = SHAPES["layers" if checkpointing else "vocabulary"]
    assert_estimated(
        config,
        micro_batch,
        impl,
        dtype=torch.bfloat16,
        checkpointing=checkpointing,
        offload=offload,
        compiled=True,
    )


@pytest.mark.parametrize("impl", ["eager", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_evaluation_takes_less_than_training(
    data: Path, dtype: torch.dtype, impl: str, checkpointing: bool
) -> None:
    shape, micro_batch = GPTConfig(32, 320, n_layer=2, n_head=2, n_embd=64), 4
    model = GPT(shape, impl, checkpoint_activations=checkpointing)
    live = sum(p.nbytes for p in model.parameters())
    val = TokenDataset(data, "val")
    evaluating = peak_of(
        lambda: evaluate(
            model,
            val,
            batch_size=micro_batch,
            autocast=torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        ),
        live,
    )
    assert evaluating > live
    assert evaluating < peak_bytes(model, micro_batch, dtype, compiled=False, offload=False)


# --- recomputation --------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_activations_change_no_bit(seed: int, dropout: float, compiled: bool) -> None:
    config = GPTConfig(
        block_size=16, vocab_size=64, n_layer=2, n_head=2, n_embd=32, dropout=dropout
    )
    torch.manual_seed(seed)
    model = GPT(config)
    ids = torch.randint(64, (2, 3, 16))
    losses, gradients = [], []
    for checkpointing in (False, True):
        model.checkpoint_activations = checkpointing
        torch.compiler.reset()
        loss_of = torch.compile(model.loss, backend="aot_eager") if compiled else model.loss
        torch.manual_seed(seed)
        loss = loss_of(*ids)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        gradients.append([p.grad for p in model.parameters()])
        model.zero_grad(set_to_none=True)
    assert torch.equal(*losses)
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


# --- what fits ------------------------------------------------------------------------------------


def plan(preset: str = "gpt2", **fields: Any) -> Plan:
    config = dataclasses.replace(from_preset(preset), **fields)
    impl = str(Implementations.parse("auto").resolve(torch.device("cuda"), config.model(50304)))
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    return Plan.of(config, 50304, "cuda", dtype, impl)


def test_largest_micro_batch_fits_and_the_next_does_not(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        sequences = draw.randrange(1, 400)
        of_run = plan(batch_tokens=1024 * sequences, checkpoint_activations=draw.random() < 0.5)
        free = int(of_run.estimate(1).planned * draw.uniform(1.01, 20))
        chosen = of_run.largest_micro_batch(free)
        divisors = [n for n in range(1, sequences + 1) if sequences % n == 0]
        assert chosen in divisors
        assert of_run.estimate(chosen).planned <= free
        larger = [n for n in divisors if n > chosen]
        assert not larger or of_run.estimate(larger[0]).planned > free


def test_a_cpu_takes_no_more_tokens_than_pay() -> None:
    on_cpu = dataclasses.replace(plan(), device="cpu")
    assert on_cpu.largest_micro_batch(2**50) * 1024 == CPU_TOKENS


BOTH = "--checkpoint-activations --offload-optimizer"


@pytest.mark.parametrize(
    ("preset", "gib", "fields", "message"),
    [
        ("gpt2", 2.75, {}, r"GiB are missing\. It fits with --checkpoint-activations$"),
        ("gpt2-large", 12, {}, r"GiB are missing\. It fits with --offload-optimizer$"),
        ("gpt2-xl", 11.25, {}, rf"GiB are missing\. It fits with {BOTH}$"),
        ("gpt2-xl", 11.25, {"checkpoint_activations": True}, rf"It fits with {BOTH}$"),
        ("gpt2-xl", 10.2, {}, rf"It fits with {BOTH} --block-size \d+$"),
        ("gpt2-xl", 8, {}, rf"AdamW take 8\.86 GiB with {BOTH}: only a smaller model"),
        ("gpt2-xl", 12, {"dtype": "float32"}, r"take 23\.21 GiB with --checkpoint-activations: "),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    preset: str, gib: float, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(preset, **fields).largest_micro_batch(int(gib * 2**30))


@pytest.mark.parametrize(
    ("preset", "flags", "micro_batch"),
    [
        ("gpt2-medium", {}, 4),
        ("gpt2-large", {"offload_optimizer": True}, 2),
        ("gpt2-xl", {"offload_optimizer": True, "checkpoint_activations": True}, 2),
    ],
)
def test_gpt2_up_to_xl_fits_into_twelve_gib(
    preset: str, flags: dict[str, bool], micro_batch: int
) -> None:
    card = named_card("RTX 4070")
    of_run = plan(preset, **flags)
    assert of_run.largest_micro_batch(card.memory - CONTEXT_BYTES) == micro_batch


def test_state_that_can_not_fit_is_refused_whatever_the_micro_batch() -> None:
    of_run = plan("gpt2-large", micro_batch=1)
    of_run.check_state(of_run.estimate(1).state)
    with pytest.raises(InputError, match="It fits with --offload-optimizer"):
        of_run.check_state(of_run.estimate(1).state - 1)


def test_machine_without_room_for_the_optimizer_is_refused() -> None:
    of_run = plan("gpt2-xl", offload_optimizer=True)
    of_run.check_host(32 << 30)
    with pytest.raises(InputError, match=r"takes 23\.81 GiB of the machine's memory, .* 7\.81 "):
        of_run.check_host(16 << 30)


def test_free_memory_of_this_machine_is_positive() -> None:
    assert free_memory(CPU).free > 2**20


# --- out of memory --------------------------------------------------------------------------------


TINY = [
    "--preset",
    "shakespeare-char",
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--n-embd",
    "16",
    "--block-size",
    "32",
    "--dropout",
    "0",
    "--batch-tokens",
    "384",
    "--max-steps",
    "3",
    "--eval-interval",
    "3",
    "--eval-tokens",
    "64",
    "--device",
    "cpu",
    "--dtype",
    "float32",
]


@pytest.fixture
def train_with(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, int], list[float]]:
    """Losses of a run of 12 sequences a step on a device that holds so many at once."""

    def run_train(micro_batch: int, fitting: int) -> list[float]:
        out = tmp_path / f"{micro_batch}-{fitting}"
        command = ["train", *TINY, "--data", str(data), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [*command, "--micro-batch", str(micro_batch)])
        original, micro_batches = GPT.loss, []

        def loss(model: GPT, idx: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            micro_batches.append(len(idx))
            # The second micro-batch of a step: gradients of the first are there already.
            if len(idx) > fitting and len(micro_batches) % 2 == 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")
            return original(model, idx, targets, reduction)

        monkeypatch.setattr(GPT, "loss", loss)
        try:
            train.main()
        finally:
            monkeypatch.setattr(GPT, "loss", original)
        return [line["train_loss"] for line in Run(out).read_metrics()]

    return run_train


def test_out_of_memory_halves_the_micro_batch_and_trains_on_the_same(
    train_with: Callable[[int, int], list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    never_short = train_with(3, 3)
    assert "out of memory" not in caplog.text
    halved = train_with(6, 3)
    assert (
        "out of memory at step 1 with micro-batches of 6 sequences (CUDA out of memory. Tried to "
        "allocate 9 GiB); from here on 4 × 3: the batch of a step stays the same"
    ) in caplog.text
    assert caplog.text.count("out of memory at step") == 1
    assert halved == never_short  # to the last bit: nothing of the broken attempt is left


def test_out_of_memory_with_one_sequence_stops_with_the_ways_out(
    train_with: Callable[[int, int], list[float]],
) -> None:
    with pytest.raises(InputError, match="one sequence at a time .*try --checkpoint-activations"):
        train_with(2, 0)
