"""Training on dialogues: the loss of a step is the mean over all its targets, however it is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pygpt import GPT, InputError
from pygpt.config import TrainConfig, padded_vocab_size
from pygpt.data import BatchSampler, TokenDataset
from pygpt.data.dialogue_writer import PrepareChat
from pygpt.data.rows import rows_of
from pygpt.evaluation.loss import evaluate
from pygpt.ops.dispatch import Implementations
from pygpt.planning.hardware import Peak
from pygpt.planning.resolve import ResolvedConfig
from pygpt.runs.run import Run
from pygpt.training.batches import Batches
from pygpt.training.ranks import Ranks
from pygpt.training.trainer import Trainer

CPU = torch.device("cpu")
EPS = torch.finfo(torch.float32).eps
B, T = 8, 32


@pytest.fixture
def dialogues(tmp_path: Path, seed: int) -> Path:
    """Replies of 1 or 20 letters: rows with very different numbers of targets."""
    draw = random.Random(seed)
    records = [
        {
            "messages": [
                {"role": "user", "content": f"{i}"},
                {"role": "assistant", "content": "".join(draw.choices("abc", k=length))},
            ]
        }
        for i, length in enumerate(draw.choices([1, 20], k=120))
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    PrepareChat((path,), tmp_path / "chat", tokenizer="bytes", val_fraction=0.2).run()
    return tmp_path / "chat"


@pytest.fixture
def build(dialogues: Path, tmp_path: Path, seed: int) -> Callable[..., Trainer]:
    """A trainer of a tiny model; equal arguments give equal weights."""

    def build(micro_batch: int) -> Trainer:
        config = TrainConfig(
            data=(str(dialogues),), n_layer=1, n_head=2, n_embd=16, block_size=T, dropout=0.0,
            batch_tokens=B * T, micro_batch=micro_batch, max_steps=4, warmup_steps=0,
            learning_rate=1e-2, min_lr=1e-3, grad_clip=0.0, device="cpu", dtype="float32",
            compile=False, seed=seed, lr_decay_steps=4, impl="eager",
        )  # fmt: skip
        train, val = (TokenDataset(dialogues, split) for split in ("train", "val"))
        shape = config.model(padded_vocab_size(train.tokenizer.n_vocab))
        impl = Implementations.parse("eager").resolve(CPU, shape)
        peak = Peak(1e12, "of this test")
        run = ResolvedConfig(config, shape, CPU, torch.float32, impl, micro_batch, False, peak)
        torch.manual_seed(seed)
        directory = Run(tmp_path / f"run-{micro_batch}")
        directory.open(config, CPU, 0)
        return Trainer(run, GPT(shape, impl), train, val, directory)

    return build


class OneOf(Ranks):
    """One of several ranks, which keeps what it gives to a sum."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.given: tuple[float, ...] = ()

    def sums(self, *values: float) -> list[float]:
        self.given = values
        return [*values]


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_micro_batches_of_unequal_targets_give_the_mean_of_one_batch(
    build: Callable[..., Trainer], dialogues: Path, micro_batch: int
) -> None:
    trainer, reference = build(micro_batch), build(4).model
    sampler = BatchSampler(TokenDataset(dialogues, "train"), B, T, seed=trainer.config.seed)
    x, y = sampler.batch(0)
    whole = reference.loss(x, y)
    whole.backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad for name, p in reference.named_parameters()}

    trainer._updater.zero_grad = lambda: None  # type: ignore[method-assign]
    loss = trainer.train_step().loss
    # Sums of 256 terms in another order: far within 64 roundings.
    assert loss.item() == pytest.approx(whole.item(), rel=64 * EPS)
    for name, p in trainer.model.named_parameters():
        gradient = expected[name]
        assert p.grad is not None
        assert gradient is not None
        largest = gradient.abs().max().item()
        assert torch.allclose(p.grad, gradient, rtol=0, atol=256 * EPS * largest), name


def test_a_mean_of_means_would_be_another_gradient(
    build: Callable[..., Trainer], dialogues: Path
) -> None:
    """So that the test above can fail."""
    model = build(4).model
    x, y = BatchSampler(TokenDataset(dialogues, "train"), B, T, seed=1).batch(0)
    gradients = []
    for rows in (1, B):
        model.zero_grad()
        for a, b in zip(x.split(rows), y.split(rows), strict=True):
            (model.loss(a, b) * rows / B).backward()  # type: ignore[no-untyped-call]
        assert model.wte.weight.grad is not None
        gradients.append(model.wte.weight.grad.clone())
    largest = gradients[1].abs().max().item()
    assert not torch.allclose(*gradients, rtol=0, atol=2560 * EPS * largest)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_ranks_of_unequal_targets_average_to_the_mean_over_all(
    build: Callable[..., Trainer], dialogues: Path, world_size: int, micro_batch: int, seed: int
) -> None:
    train = TokenDataset(dialogues, "train")
    config = build(1).config
    _, y = Batches(train, config, CPU).batch(3)
    nats = np.random.default_rng(seed).random((B, T)) * (y.numpy() >= 0)
    per_rank = []
    for rank in range(world_size):
        batches = Batches(train, config, CPU, OneOf(rank, world_size))
        mine = np.split(nats, world_size)[rank].reshape(-1, micro_batch * T)
        targets = (batches.batch(3)[1].reshape(len(mine), -1) >= 0).sum(dim=1).numpy()
        means = mine.sum(axis=1) / targets
        per_rank.append((means / batches.divisors(3, micro_batch)).sum())
    assert np.mean(per_rank) == pytest.approx(nats.sum() / (y >= 0).sum().item(), rel=1e-12)


def test_text_is_divided_by_the_number_of_micro_batches(data: Path, seed: int) -> None:
    """The bits of a run on text are those of a division by a whole number."""
    config = TrainConfig(
        data=(str(data),), block_size=T, batch_tokens=12 * T, micro_batch=2, seed=seed
    )
    for world_size in (1, 2, 3):
        ranks = OneOf(0, world_size)
        divisors = Batches(TokenDataset(data, "train"), config, CPU, ranks).divisors(5, 2)
        assert divisors == [6 / world_size] * (6 // world_size)


def test_an_evaluation_scores_what_the_assistant_wrote(
    build: Callable[..., Trainer], dialogues: Path
) -> None:
    model, val = build(4).model.eval(), TokenDataset(dialogues, "val")
    rows = rows_of(val, T)
    nats, n_targets = 0.0, 0
    for row in range(len(rows)):
        x, y = np.empty((2, T), np.int64)
        rows.read(row, x, y)
        logits = (model.hidden(torch.from_numpy(x)[None])[0] @ model.wte.weight.T).double()
        scored = np.flatnonzero(y >= 0)
        nats -= logits.log_softmax(-1)[scored, y[scored]].sum().item()
        n_targets += len(scored)
    found = evaluate(model, val, batch_size=3)
    assert val.loss_mask is not None
    assert found.tokens == n_targets == int(val.loss_mask.sum())  # none is cut
    assert found.nats == pytest.approx(nats, rel=1e-5)
    few = evaluate(model, val, max_tokens=2 * T)
    assert 0 < few.tokens < found.tokens
    with pytest.raises(InputError, match="holds dialogues.*leave out --stride"):
        evaluate(model, val, stride=4)


def test_ranks_evaluate_every_row_once(build: Callable[..., Trainer], dialogues: Path) -> None:
    model, val = build(4).model.eval(), TokenDataset(dialogues, "val")
    n = len(rows_of(val, T))
    world_size = next(size for size in (3, 4, 5, 7, 11) if n % size)  # some have a row less
    ranks = [OneOf(rank, world_size) for rank in range(world_size)]
    for rank in ranks:
        evaluate(model, val, ranks=rank)
    total = evaluate(model, val)
    nats, tokens, n_bytes = map(sum, zip(*(rank.given for rank in ranks), strict=True))
    assert (tokens, n_bytes) == (total.tokens, total.bytes)
    assert nats == pytest.approx(total.nats, rel=1e-5)
