"""Rows of dialogues: whole ones, masked targets, and batches as a pure function of the step."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pygpt import InputError
from pygpt.data import BatchSampler, TokenDataset
from pygpt.data.dialogue_writer import PrepareChat
from pygpt.data.mixture import Mixture, MixtureSampler
from pygpt.data.rows import Rows, pack, rows_of, tokens_per_epoch
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer

T = 64
TOKENIZER = chat_tokenizer(get_tokenizer("bytes"))
END = TOKENIZER.info.end_of_text


@pytest.fixture
def dialogues(tmp_path: Path, seed: int) -> list[str]:
    """Replies of random lengths, some with a user's text that fills a row, in 60 dialogues."""
    draw = random.Random(seed)
    replies, records = [], []
    for i in range(60):
        reply = f"{i}:" + "r" * draw.randrange(70)
        question = "q" * (draw.choice([3, 3, 10, 100]) if i > 1 else 1)
        records.append({"messages": [{"role": "user", "content": question},
                                     {"role": "assistant", "content": reply}]})  # fmt: skip
        replies.append(reply if len(question) < 100 else "")
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    PrepareChat((path,), tmp_path / "out", tokenizer="bytes", val_fraction=1e-9).run()
    return replies


@pytest.fixture
def split(tmp_path: Path, dialogues: list[str]) -> TokenDataset:
    return TokenDataset(tmp_path / "out", "train")


def read(rows: Rows, row: int) -> tuple[list[int], list[int]]:
    x, y = np.empty((2, rows.block_size), np.int64)
    rows.read(row, x, y)
    return x.tolist(), y.tolist()


def test_packing_loses_nothing_and_overfills_nothing(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 101, 500)
    rows = pack(lengths, 100)
    assert sorted(item for row in rows for item in row) == list(range(500))
    filled = [int(lengths[[*row]].sum()) for row in rows]
    assert max(filled) <= 100
    # Best-fit decreasing takes at most 11/9 of the best number of rows, plus 4 (Johnson 1974).
    assert len(rows) <= 11 / 9 * np.ceil(lengths.sum() / 100) * 1.5 + 4
    assert [*pack(np.array([60, 50, 40, 50]), 100)] == [[0, 2], [1, 3]]


def test_a_row_holds_whole_dialogues_and_every_row_has_targets(
    split: TokenDataset, dialogues: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        rows = Rows(split, T)
    seen: Counter[str] = Counter()
    n_cut = 0
    for row in range(len(rows)):
        x, y = read(rows, row)
        written = [target for target in y if target >= 0]
        assert len(written) == rows.n_targets[row] > 0
        for position, target in enumerate(y[:-1]):
            assert target in (-1, x[position + 1])
        # Each dialogue starts at its user's turn: none goes on from another row.
        assert TOKENIZER.decode(x).startswith("<|user|>")
        texts = TOKENIZER.decode(written).split("<|end|>")
        n_cut += texts[-1] != ""
        seen.update(text for text in texts if text)
    whole = [reply for reply in dialogues[1:] if reply]  # the first is the val split
    assert sum(seen.values()) == len(whole)
    assert n_cut == rows.n_cut
    assert rows.n_left_out == len(dialogues) - 1 - len(whole)
    cut = [text for text in seen if text not in whole]
    assert len(cut) <= n_cut  # cut right before its end-of-turn, a reply's text is whole
    assert all(any(reply.startswith(text) for reply in whole) for text in cut)
    assert f"{rows.n_cut} dialogues are cut" in caplog.text
    assert f"{rows.n_left_out} left out" in caplog.text


def test_batches_are_a_pure_function_of_the_step(split: TokenDataset, seed: int) -> None:
    sampler = BatchSampler(split, 4, T, seed=seed)
    batches = [sampler.batch(step) for step in range(8)]
    again = BatchSampler(split, 4, T, seed=seed)
    for step in random.Random(seed).sample(range(8), 8):
        for ours, theirs in zip(again.batch(step), batches[step], strict=True):
            assert torch.equal(ours, theirs)
        targets = (batches[step][1] >= 0).sum(dim=1).tolist()
        assert sampler.targets_per_row(step).tolist() == targets
    other = BatchSampler(split, 4, T, seed=seed + 1)
    assert not torch.equal(other.batch(0)[0], batches[0][0])


def test_ranks_share_the_same_global_batch(split: TokenDataset, seed: int) -> None:
    whole = BatchSampler(split, 6, T, seed=seed)
    ranks = [BatchSampler(split, 6, T, seed=seed, rank=r, world_size=3) for r in range(3)]
    x = torch.cat([rank.batch(2)[0] for rank in ranks])
    assert torch.equal(x, whole.batch(2)[0])
    assert ranks[1].targets_per_row(2).tolist() == whole.targets_per_row(2).tolist()


def test_an_epoch_visits_each_row_once(split: TokenDataset, seed: int) -> None:
    rows = rows_of(split, T)
    sampler = BatchSampler(split, 1, T, seed=seed)
    assert sampler.tokens_per_epoch == len(rows) * T == tokens_per_epoch(split, T)
    expected = sorted(read(rows, row) for row in range(len(rows)))
    orders = []
    for epoch in range(2):
        steps = range(epoch * len(rows), (epoch + 1) * len(rows))
        batches = [sampler.batch(step) for step in steps]
        seen = [(x[0].tolist(), y[0].tolist()) for x, y in batches]
        assert sorted(seen) == expected
        orders.append(seen)
    assert orders[0] != orders[1]
    drawn = BatchSampler(split, 200, T, seed=seed, sampling="random").batch(0)[0]
    assert 1 < len({tuple(row.tolist()) for row in drawn}) <= len(rows)


def test_wrong_arguments(split: TokenDataset) -> None:
    with pytest.raises(InputError, match="step must be 0 or more, got -1"):
        BatchSampler(split, 1, T).batch(-1)
    with pytest.raises(InputError, match="rank 1 of 2 can't take an equal part of 3"):
        BatchSampler(split, 3, T, rank=1, world_size=2)
    with pytest.raises(InputError, match="sampling 'x' is none of"):
        BatchSampler(split, 3, T, sampling="x")
    with pytest.raises(ValueError, match="x must be int64"):
        BatchSampler(split, 3, T).batch(0, (torch.empty(2, T), torch.empty(2, T)))
    with pytest.raises(InputError, match="has a reply within block_size=4 tokens"):
        Rows(split, 4)


def test_dialogues_mix_with_text_of_the_plain_tokenizer(
    split: TokenDataset, data: Path, seed: int
) -> None:
    text = TokenDataset(data, "train")
    for parts in ([split, text], [text, split]):
        mixture = Mixture(parts, [0.5, 0.5])
        assert mixture.tokenizer == split.tokenizer
        sampler = MixtureSampler(mixture, 4, T, seed=seed)
        _, y = sampler.batch(1)
        assert sampler.targets_per_row(1).tolist() == (y >= 0).sum(dim=1).tolist()
        assert (sampler.targets_per_row(1) == T).sum() == 2
