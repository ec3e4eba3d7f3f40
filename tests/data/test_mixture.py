"""Mixtures: a pure function of the step, exact proportions, equal parts for ranks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pygpt.data import BatchSampler, TokenDataset
from pygpt.data.mixture import Mixture, MixtureSampler
from pygpt.utils.errors import InputError


@pytest.fixture
def datasets(tmp_path: Path) -> list[TokenDataset]:
    """Three datasets whose ids say which they are: 0 to 79, 80 to 159, 160 to 239."""
    found = []
    for at in range(3):
        (tmp_path / f"{at}").mkdir()
        ids = np.arange(2000) % 80 + 80 * at
        ids.astype("<u2").tofile(tmp_path / f"{at}" / "train.bin")
        found.append(TokenDataset(tmp_path / f"{at}", tokenizer="bytes"))
    return found


def sources(x: torch.Tensor) -> list[int]:
    first, last = x[:, 0] // 80, x[:, -1] // 80
    assert torch.equal(first, last)
    return [int(value) for value in first]


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 1, 1), (5, 1), (0.123, 0.456, 0.421)])
def test_proportions_hold_to_one_row_at_every_moment(
    datasets: list[TokenDataset], weights: tuple[float, ...]
) -> None:
    sampler = MixtureSampler(Mixture(datasets[: len(weights)], weights), 4, 8)
    shares = np.array(weights) / sum(weights)
    counts: Counter[int] = Counter()
    for step in range(300):
        counts.update(sampler.source_of(step))
        n = 4 * (step + 1)
        for at, share in enumerate(shares):
            # 1 row, and the weights' rounding to one thousandth.
            assert abs(counts[at] - n * share) <= 1 + n * 0.5e-3


def test_rows_come_from_their_dataset_in_its_own_order(
    datasets: list[TokenDataset], seed: int
) -> None:
    sampler = MixtureSampler(Mixture(datasets, (3, 2, 1)), 6, 8, seed=seed)
    alone = [BatchSampler(d, 1, 8, seed=(seed + at) % 2**64) for at, d in enumerate(datasets)]
    had = [0, 0, 0]
    for step in range(20):
        x, y = sampler.batch(step)
        assert sources(x) == sampler.source_of(step)
        for row, source in enumerate(sources(x)):
            expected = alone[source].batch(had[source])
            assert torch.equal(x[row : row + 1], expected[0])
            assert torch.equal(y[row : row + 1], expected[1])
            had[source] += 1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rows_of_the_next_batch_are_read_ahead(
    datasets: list[TokenDataset], monkeypatch: pytest.MonkeyPatch, seed: int, rank: int
) -> None:
    asked: list[tuple[BatchSampler, int]] = []
    monkeypatch.setattr(
        BatchSampler,
        "read_ahead",
        lambda self, step, n: asked.extend((self, step + i) for i in range(n)),
    )
    given: list[tuple[BatchSampler, int]] = []
    batch = BatchSampler.batch
    monkeypatch.setattr(
        BatchSampler,
        "batch",
        lambda self, step, out: given.append((self, step)) or batch(self, step, out),
    )
    mixture = Mixture(datasets, (3, 2, 1))
    sampler = MixtureSampler(mixture, 6, 8, seed=seed, rank=rank, world_size=2)
    for step in range(10):
        sampler.batch(step)
        expected = asked.copy()
        asked.clear()
        given.clear()
        sampler.batch(step + 1)
        assert sorted(expected, key=str) == sorted(given, key=str)
        asked.clear()


def test_a_batch_depends_on_the_step_alone(datasets: list[TokenDataset], seed: int) -> None:
    one = MixtureSampler(Mixture(datasets, (0.5, 0.3, 0.2)), 6, 8, seed=seed)
    in_order = [one.batch(step)[0] for step in range(10)]
    another = MixtureSampler(Mixture(datasets, (0.5, 0.3, 0.2)), 6, 8, seed=seed)
    for step in np.random.default_rng(seed).permutation(10).tolist():
        assert torch.equal(another.batch(step)[0], in_order[step])


def test_ranks_take_rows_of_the_same_global_batch(datasets: list[TokenDataset]) -> None:
    whole = MixtureSampler(Mixture(datasets, (2, 1, 1)), 6, 8)
    ranks = [
        MixtureSampler(Mixture(datasets, (2, 1, 1)), 6, 8, rank=r, world_size=3) for r in range(3)
    ]
    for step in range(5):
        parts = [rank.batch(step)[0] for rank in ranks]
        assert torch.equal(torch.cat(parts), whole.batch(step)[0])


def test_buffers_are_filled(datasets: list[TokenDataset]) -> None:
    sampler = MixtureSampler(Mixture(datasets[:2], (1, 1)), 4, 8)
    x, y = np.empty((4, 8), np.int64), np.empty((4, 8), np.int64)
    sampler.batch(3, (x, y))
    np.testing.assert_array_equal(x, sampler.batch(3)[0].numpy())
    np.testing.assert_array_equal(y, sampler.batch(3)[1].numpy())
    with pytest.raises(ValueError, match="must have 4 rows, got 3"):
        sampler.batch(0, (x[:3], y[:3]))


def test_an_epoch_ends_with_the_dataset_used_up_first(datasets: list[TokenDataset]) -> None:
    whole = BatchSampler(datasets[0], 1, 8).tokens_per_epoch
    assert MixtureSampler(Mixture(datasets[:2], (3, 1)), 4, 8).tokens_per_epoch == int(whole / 0.75)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "need as many weights"),
        ((1.0, 0.0), "positive number, got 0.0"),
        ((1.0, float("nan")), "positive number, got nan"),
        ((1.0, 1e-6), "less than 1/1000"),
    ],
)
def test_weights_that_are_refused(
    datasets: list[TokenDataset], weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MixtureSampler(Mixture(datasets[:2], weights), 4, 8)


def test_datasets_of_different_tokenizers_are_refused(
    datasets: list[TokenDataset], tmp_path: Path
) -> None:
    other = TokenDataset(tmp_path / "1", tokenizer="gpt2")
    with pytest.raises(InputError, match="'gpt2' and .* has 'bytes': their ids differ"):
        MixtureSampler(Mixture([datasets[0], other], (1, 1)), 4, 8)
