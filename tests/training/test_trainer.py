"""The training loop, built by hand: no command line and no display."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt.config import TrainConfig, padded_vocab_size
from pygpt.data import BatchSampler, TokenDataset
from pygpt.evaluation.loss import Evaluation
from pygpt.hub.stored import read_tensors
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations
from pygpt.planning.hardware import Peak
from pygpt.planning.resolve import ResolvedConfig
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.training.batches import Batches
from pygpt.training.observer import StepReport
from pygpt.training.trainer import Trainer
from pygpt.utils.errors import InputError

CPU = torch.device("cpu")
PEAK = Peak(1e12, "of this test")


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        self.evaluated.append(step)

    def on_checkpoint(self, path: Path) -> None:
        self.saved.append(checkpoint.read_state(path).step)


def never() -> bool:
    return False


@pytest.fixture
def build(data: Path, tmp_path: Path, seed: int) -> Callable[..., Trainer]:
    """A trainer of a tiny model; equal arguments give equal weights."""

    def build(name: str = "run", **changes: Any) -> Trainer:
        config = TrainConfig(
            data=(str(data),), n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.1,
            batch_tokens=128, micro_batch=4, max_steps=6, warmup_steps=2, lr_decay_steps=6,
            learning_rate=1e-2, min_lr=1e-3, eval_interval=3, eval_tokens=64,
            checkpoint_interval=3, device="cpu", dtype="float32", compile=False, seed=seed,
        )  # fmt: skip
        config = dataclasses.replace(config, **changes)
        train, val = (TokenDataset(data, split) for split in ("train", "val"))
        shape = config.model(padded_vocab_size(train.tokenizer.n_vocab))
        impl = Implementations.parse("auto").resolve(CPU, shape)
        micro_batch = int(config.micro_batch)
        resolved = ResolvedConfig(config, shape, CPU, torch.float32, impl, micro_batch, False, PEAK)
        torch.manual_seed(seed)
        run = Run(tmp_path / name)
        run.open(config, CPU, 0)
        return Trainer(resolved, GPT(shape, impl), train, val, run)

    return build


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def test_a_step_is_the_textbook_loop(build: Callable[..., Trainer], data: Path) -> None:
    """Against a loop as in nanoGPT's train.py, with the same operations: equal bits."""
    trainer = build(dropout=0.0, weight_decay=0.1, grad_clip=0.1, warmup_steps=3)
    config, reference = trainer.config, build("reference", dropout=0.0).model
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in reference.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in reference.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        fused=True,
    )
    sampler = BatchSampler(
        TokenDataset(data, "train"), 8, 16, seed=config.seed, sampling=config.sampling
    )
    for step in range(3):
        lr = 1e-2 * (step + 1) / 3
        x, y = sampler.batch(step)
        loss = torch.zeros(())
        for rows in (slice(0, 4), slice(4, 8)):
            part = reference.loss(x[rows], y[rows]) / 2
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.step()
        adamw.zero_grad()
        done = trainer.train_step()
        assert (done.step, done.lr) == (step + 1, lr)
        assert torch.equal(done.loss, loss)
        assert torch.equal(done.grad_norm, norm)
        assert norm > 0.1, "the test needs gradients that are clipped"
    assert_equal(weights(trainer), reference.state_dict())
    assert all(p.grad is None for p in trainer.model.parameters())


def test_what_is_reported_and_when(build: Callable[..., Trainer]) -> None:
    trainer, seen = build(max_steps=7), Recorder()
    trainer.train(seen, never)
    assert [report.step for report in seen.reports] == [1, 2, 3, 4, 5, 6, 7]
    assert seen.evaluated == seen.saved == [3, 6, 7]  # every third, and the last
    flops = trainer.model.config.flops_per_token()
    for report in seen.reports:
        assert (report.val_loss is not None) == (report.step in (3, 6, 7))
        assert report.tokens == 128 * report.step
        assert report.mfu == pytest.approx(report.tokens_per_second * flops / PEAK.flops)
    run = Run(trainer.directory.path)
    assert run.read_metrics() == [report.fields() for report in seen.reports]
    assert trainer.evaluation is not None
    assert trainer.evaluation.loss == seen.reports[-1].val_loss


def test_a_stop_is_saved_and_resumed_to_the_same_bits(build: Callable[..., Trainer]) -> None:
    whole, seen = build("whole"), Recorder()
    whole.train(seen, never)

    stopped, before = build("stopped"), Recorder()
    stopped.train(before, lambda: stopped.step == 4)
    assert stopped.step == 4
    assert before.saved == [3, 4]
    newest = stopped.directory.newest_checkpoint()
    assert newest

    resumed, after = build("stopped", seed=whole.config.seed), Recorder()
    resumed.resume(newest)
    assert resumed.step == 4
    resumed.train(after, never)
    losses = [report.train_loss for report in (*before.reports, *after.reports)]
    assert losses == [report.train_loss for report in seen.reports]
    assert_equal(weights(whole), weights(resumed))
    files = [trainer.directory.newest_checkpoint() for trainer in (whole, resumed)]
    moments = [read_tensors(path / "optimizer.safetensors") for path in files if path]
    assert_equal(moments[0], moments[1])


def fail_at(trainer: Trainer, call: int, error: RuntimeError) -> None:
    """Let call number `call` of the loss, from 1, raise `error`."""
    loss, calls = trainer._parallel.loss, []

    def failing(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        if len(calls) == call:
            raise error
        return loss(x, y)

    trainer._parallel.loss = failing


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(
    build: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build("halved", micro_batch=4)
    fail_at(trainer, 2, torch.OutOfMemoryError("CUDA out of memory\nand more"))
    halves = build("halves", micro_batch=2)
    assert torch.equal(trainer.train_step().loss, halves.train_step().loss)
    assert_equal(weights(trainer), weights(halves))
    assert "out of memory at step 1 with micro-batches of 4 sequences (CUDA out" in caplog.text
    assert trainer.directory.config().micro_batch == 2  # what a resumed run starts with


def test_out_of_memory_with_one_sequence_is_an_error(build: Callable[..., Trainer]) -> None:
    trainer = build(micro_batch=1)
    fail_at(trainer, 5, torch.OutOfMemoryError("CUDA out of memory"))
    before = weights(trainer)
    with pytest.raises(InputError, match="at step 1 with one sequence .*--checkpoint-activations"):
        trainer.train_step()
    assert_equal(before, weights(trainer))


def test_other_errors_pass_through(build: Callable[..., Trainer]) -> None:
    trainer = build()
    fail_at(trainer, 1, RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        trainer.train_step()
    assert trainer.run.micro_batch == 4


def test_a_loss_that_is_not_finite_stops_before_saving(build: Callable[..., Trainer]) -> None:
    trainer, seen = build(), Recorder()

    def diverge() -> bool:
        if trainer.step == 2:
            trainer.model.wte.weight.data.fill_(torch.inf)
        return False

    with pytest.raises(InputError, match="the loss is nan at step 3: .*no checkpoint yet"):
        trainer.train(seen, diverge)
    assert [report.step for report in seen.reports] == [1, 2]
    assert trainer.directory.newest_checkpoint() is None


def test_the_finished_model_does_not_drop(build: Callable[..., Trainer]) -> None:
    trainer = build()
    trainer.train(Recorder(), never)
    model = trainer.finish()
    assert not model.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_batches_are_the_samplers(build: Callable[..., Trainer], data: Path) -> None:
    config = build().config
    train = TokenDataset(data, "train")
    batches = Batches(train, config, CPU)
    sampler = BatchSampler(train, 8, 16, seed=config.seed, sampling=config.sampling)
    for step in (5, 0, 1):
        for a, b in zip(batches.batch(step), sampler.batch(step), strict=True):
            assert torch.equal(a, b)
