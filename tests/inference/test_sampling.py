"""Every setting of Sampling does what it says, and refuses what makes no sense."""

import pytest
import torch

from pygpt import InputError
from pygpt.inference.sampling import Sampling

PROBS = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_k=99), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1.0, top_p=0.6), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.01), {1}),
        (Sampling(temperature=1.0, top_p=1.0), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1.0, min_p=0.3), {1, 3, 4}),  # 0.12 and more
        (Sampling(temperature=1.0, min_p=1.0), {1}),
        (Sampling(temperature=1.0, top_k=4, top_p=0.8, min_p=0.5), {1, 3}),
        (Sampling(temperature=0), {1}),
    ],
)
def test_what_can_be_chosen(sampling: Sampling, expected: set[int], seed: int) -> None:
    # The rarest allowed id has 0.05: 2,000 draws miss it once in 10^44 runs.
    generator = torch.Generator().manual_seed(seed)
    assert {sampling.choose(PROBS.log(), generator) for _ in range(2000)} == expected


def test_temperature_one_follows_the_distribution(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = 10_000
    draws = [Sampling(temperature=1.0).choose(PROBS.log(), generator) for _ in range(n)]
    share = torch.bincount(torch.tensor(draws), minlength=len(PROBS)) / n
    # Five standard errors of a share: √(p(1-p)/n).
    assert ((share - PROBS).abs() < 5 * (PROBS * (1 - PROBS) / n).sqrt()).all()


def test_impossible_ids_are_never_drawn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.full((1000,), -torch.inf)
    logits[[3, 500]] = 0.0
    sampling = Sampling(temperature=1e4)
    assert {sampling.choose(logits, generator) for _ in range(200)} == {3, 500}


def test_repetition_penalty() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    logits = torch.tensor([3.0, 2.0, -1.0])
    assert sampling.choose(logits) == 0
    assert sampling.choose(logits, seen=torch.tensor([0])) == 1  # 1.5 < 2
    assert logits.tolist() == [3.0, 2.0, -1.0]
    # Negative logits fall too: -1 becomes -2, less than -1.5.
    assert sampling.choose(torch.tensor([-1.0, -1.5]), seen=torch.tensor([0])) == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 .* to 10000, got -1"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 1e-40}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, "got 1.5"),
        ({"min_p": 0.0}, r"min_p must be in \(0, 1\], got 0.0"),
        ({"min_p": float("nan")}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be from 0.01 to 100, got 0.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
    ],
)
def test_invalid_values_are_refused(kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**kwargs)  # type: ignore[arg-type]
