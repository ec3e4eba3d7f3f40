"""BatchSampler: what an epoch visits, what a batch can't depend on, and whose buffers it fills."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pygpt.data import BatchSampler, TokenDataset
from pygpt.data.manifest import DatasetInfo, ShardInfo, SplitInfo
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

Counting = Callable[..., TokenDataset]


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Makes a dataset whose ids count up from zero, so that an id says where it was read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(n_tokens: int, n_shards: int = 1, dtype: str = "uint32") -> TokenDataset:
        directory = tmp_path / f"{n_tokens}-{n_shards}-{dtype}"
        if not directory.exists():  # never written under a sampler that has it mapped
            _write_counting(directory, n_tokens, n_shards, dtype)
        return TokenDataset(directory)

    return make


def _write_counting(directory: Path, n_tokens: int, n_shards: int, dtype: str) -> None:
    directory.mkdir()
    shards = []
    for at, part in enumerate(np.array_split(np.arange(n_tokens, dtype=dtype), n_shards)):
        path = directory / f"{at}.bin"
        part.tofile(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append(ShardInfo(path.name, len(part), sha256))
    tokenizer = TokenizerInfo("counting", n_tokens, n_tokens - 1, "")
    splits = {"train": SplitInfo(1, 1, tuple(shards))}
    DatasetInfo(tokenizer, dtype, splits, "a test").write(directory)


def starts(x: torch.Tensor) -> list[int]:
    """Where the windows of a counting dataset begin."""
    return [int(start) for start in x[:, 0]]


# --- permutation ----------------------------------------------------------------------------------


def test_an_epoch_visits_every_window_once(counting: Counting, seed: int) -> None:
    rng = random.Random(seed)
    for n_tokens in [2, 3, 4, 5, 6, 17, 18, 65, 66, *rng.sample(range(3, 5000), 10)]:
        # With one target a window there are n_tokens - 1 windows and no room to shift them.
        n_windows = n_tokens - 1
        sampler = BatchSampler(counting(n_tokens), n_windows, 1, seed=rng.getrandbits(64))
        assert sampler.tokens_per_epoch == n_windows
        for epoch in (0, 1, rng.randrange(10**9)):
            assert sorted(starts(sampler.batch(epoch)[0])) == list(range(n_windows))


def test_every_token_but_the_edges_is_a_target_once_an_epoch(counting: Counting, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        block_size = rng.randint(1, 50)
        n_tokens = rng.randint(block_size + 1, 2000)
        n_windows = max(1, n_tokens // block_size - 1)
        sampler = BatchSampler(counting(n_tokens, rng.randint(1, 3)), 1, block_size, seed=seed)
        batches = [sampler.batch(step) for step in range(n_windows)]
        for x, y in batches:
            assert torch.equal(y, x + 1)
            assert torch.equal(x[0], torch.arange(block_size) + x[0, 0])
        targets = torch.cat([y.flatten() for _, y in batches]).sort().values
        first = int(targets[0])
        assert torch.equal(targets, torch.arange(first, first + n_windows * block_size))
        # At the edges fewer than two windows are left over.
        assert n_tokens - 1 - len(targets) < 2 * block_size


def test_every_token_is_a_target_in_some_epoch(counting: Counting, seed: int) -> None:
    n_tokens, block_size = 50, 8
    sampler = BatchSampler(counting(n_tokens), 5, block_size, seed=seed)
    assert sampler.tokens_per_epoch == 5 * block_size
    seen = {int(token) for epoch in range(300) for token in sampler.batch(epoch)[1].flatten()}
    # 10 shifts: one of them is missed in 300 epochs with probability 10 · 0.9³⁰⁰ < 2e-13.
    assert seen == set(range(1, n_tokens))


def test_epochs_and_seeds_differ(counting: Counting, seed: int) -> None:
    dataset = counting(1000)
    orders = [
        tuple(starts(BatchSampler(dataset, 99, 10, seed=seed + other).batch(epoch)[0]))
        for other in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == len(orders)


def test_the_order_is_uniform(counting: Counting, seed: int) -> None:
    """Each of 7 windows stands at each of 7 places equally often (χ² of the 7 × 7 table)."""
    n_windows, n_epochs = 7, 3000
    sampler = BatchSampler(counting(n_windows + 1), n_windows, 1, seed=seed)
    counts = np.zeros((n_windows, n_windows))
    for epoch in range(n_epochs):
        counts[np.arange(n_windows), starts(sampler.batch(epoch)[0])] += 1
    expected = n_epochs / n_windows
    statistic = ((counts - expected) ** 2 / expected).sum() * (n_windows - 1) / n_windows
    # χ² with 36 degrees of freedom passes 110 with probability 2e-9.
    assert statistic < 110


def test_neighbours_in_the_order_are_unrelated(counting: Counting, seed: int) -> None:
    n_windows = 4000
    sampler = BatchSampler(counting(n_windows + 1), n_windows, 1, seed=seed)
    order = np.array(starts(sampler.batch(0)[0]), dtype=np.float64)
    place = np.arange(n_windows)
    for a, b in [(order[:-1], order[1:]), (order[:-2], order[2:]), (order, place)]:
        # The correlation of unrelated rows has the standard deviation 1/√n; six of them.
        assert abs(np.corrcoef(a, b)[0, 1]) < 6 / np.sqrt(n_windows)


def test_a_batch_may_cross_an_epoch(counting: Counting, seed: int) -> None:
    dataset = counting(1000)
    one = BatchSampler(dataset, 1, 10, seed=seed)
    many = BatchSampler(dataset, 250, 10, seed=seed)  # 99 windows an epoch
    singly = [starts(one.batch(step)[0])[0] for step in range(500)]
    assert starts(many.batch(0)[0]) + starts(many.batch(1)[0]) == singly


# --- random ---------------------------------------------------------------------------------------


def test_random_windows_lie_anywhere_inside(counting: Counting, seed: int) -> None:
    sampler = BatchSampler(counting(20), 500, 16, seed=seed, sampling="random")
    x, y = sampler.batch(0)
    assert torch.equal(y, x + 1)
    # Four starts: one is missed in 500 draws with probability 4 · 0.75⁵⁰⁰ < 1e-61.
    assert set(starts(x)) == {0, 1, 2, 3}
    assert int(y.max()) == 19


def test_random_batches_differ_by_step_and_seed(counting: Counting, seed: int) -> None:
    dataset = counting(100_000)
    drawn = [
        tuple(starts(BatchSampler(dataset, 8, 16, seed=s, sampling="random").batch(step)[0]))
        for s in (seed, seed + 1)
        for step in range(20)
    ]
    assert len(set(drawn)) == len(drawn)


# --- what a batch can't depend on -----------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["permutation", "random"])
def test_ranks_take_their_rows_of_one_global_batch(
    counting: Counting, seed: int, sampling: str
) -> None:
    dataset = counting(3000, 3)
    step = random.Random(seed).randrange(10**6)
    whole = BatchSampler(dataset, 12, 16, seed=seed, sampling=sampling).batch(step)
    for world_size in (1, 2, 3, 4, 6, 12):
        parts = [
            BatchSampler(
                dataset, 12, 16, seed=seed, rank=rank, world_size=world_size, sampling=sampling
            ).batch(step)
            for rank in range(world_size)
        ]
        assert parts[0][0].shape == (12 // world_size, 16)
        for joined, expected in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(joined), expected)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("sampling", ["permutation", "random"])
def test_a_batch_depends_on_its_step_alone(
    counting: Counting, seed: int, sampling: str, dtype: str
) -> None:
    dataset = counting(60_000, 4, dtype)

    def sampler(read_ahead: bool) -> BatchSampler:
        return BatchSampler(dataset, 8, 64, seed=seed, sampling=sampling, read_ahead=read_ahead)

    plain, ahead = sampler(False), sampler(True)
    truth = [plain.batch(step) for step in range(200)]
    steps = random.Random(seed).choices(range(200), k=400)

    def same(step: int) -> bool:
        return all(map(torch.equal, ahead.batch(step), truth[step]))

    assert all(same(step) for step in steps)
    with ThreadPoolExecutor(4) as threads:  # and from several threads at a time
        assert all(threads.map(same, steps))


# --- the order, restated --------------------------------------------------------------------------
# A changed order would break every run that is resumed, so it is written down twice: in C++ for
# speed and here to be read.

U64 = (1 << 64) - 1


def mix(bits: int) -> int:
    """SplitMix64's output function."""
    bits = bits + 0x9E3779B97F4A7C15 & U64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & U64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & U64
    return bits ^ bits >> 31


def keyed_hash(purpose: int, seed: int, a: int, b: int) -> int:
    return mix(mix(mix(mix(purpose) ^ seed) ^ a) ^ b)


def permuted(place: int, n: int, seed: int, epoch: int) -> int:
    """Six Feistel rounds over the next power of four, until the value is below n."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    while True:
        left, right = place >> half, place & (1 << half) - 1
        for turn in range(6):
            key = keyed_hash(0, seed, epoch, turn)
            left, right = right, left ^ mix(right ^ key) >> 64 - half
        place = left << half | right
        if place < n:
            return place


def window_start(n_tokens: int, block_size: int, seed: int, sample: int) -> int:
    n_windows = max(1, (n_tokens - block_size) // block_size)
    epoch, place = divmod(sample, n_windows)
    shift = keyed_hash(1, seed, epoch, 0) * (n_tokens - n_windows * block_size) >> 64
    return shift + permuted(place, n_windows, seed, epoch) * block_size


def test_the_order_is_the_one_restated_here(counting: Counting, seed: int) -> None:
    rng = random.Random(seed)
    for n_tokens in [2, 3, 5, 6, 17, 18, 65, 66, *rng.sample(range(10, 5000), 20)]:
        block_size, batch_size = rng.randint(1, min(9, n_tokens - 1)), rng.randint(1, 40)
        sampler_seed, step = rng.getrandbits(64), rng.randrange(10**6)
        dataset = counting(n_tokens)
        permutation = BatchSampler(dataset, batch_size, block_size, seed=sampler_seed)
        assert starts(permutation.batch(step)[0]) == [
            window_start(n_tokens, block_size, sampler_seed, step * batch_size + row)
            for row in range(batch_size)
        ]
        drawn = BatchSampler(dataset, batch_size, block_size, seed=sampler_seed, sampling="random")
        assert starts(drawn.batch(step)[0]) == [
            keyed_hash(2, sampler_seed, step, row) * (n_tokens - block_size) >> 64
            for row in range(batch_size)
        ]


def test_a_forked_child_goes_on(counting: Counting) -> None:
    """The read-ahead thread stays in the parent; the child must not wait for it."""
    dataset = counting(5000)
    code = f"""
import os, signal
from pygpt.data import BatchSampler, TokenDataset
sampler = BatchSampler(TokenDataset({str(dataset.path)!r}), 4, 32)
expected = [sampler.batch(step)[0].tolist() for step in range(3)]
child = os.fork()
if child == 0:
    signal.alarm(120)  # a child that hangs dies of it
    same = [sampler.batch(step)[0].tolist() for step in range(3)] == expected
    del sampler
    os._exit(0 if same else 1)
status = os.waitpid(child, 0)[1]
assert [sampler.batch(step)[0].tolist() for step in range(3)] == expected
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- out= -----------------------------------------------------------------------------------------


def test_out_fills_the_callers_buffers(counting: Counting, seed: int) -> None:
    sampler = BatchSampler(counting(1000), 4, 16, seed=seed)
    x, y = sampler.batch(3)
    tensors = (torch.empty(4, 16, dtype=torch.int64), torch.empty(4, 16, dtype=torch.int64))
    arrays = (np.empty((4, 16), np.int64), np.empty((4, 16), np.int64))
    rows = torch.empty(2, 9, 16, dtype=torch.int64)  # contiguous parts of a larger buffer
    for out in (tensors, arrays, (rows[0, 5:], rows[1, :4])):
        filled = sampler.batch(3, out=out)
        assert filled[0] is out[0]
        assert filled[1] is out[1]
        assert torch.equal(torch.as_tensor(out[0]), x)
        assert torch.equal(torch.as_tensor(out[1]), y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device")
def test_out_fills_pinned_memory(counting: Counting, seed: int) -> None:
    sampler = BatchSampler(counting(1000), 4, 16, seed=seed)
    shape = (4, 16)
    out = tuple(torch.empty(shape, dtype=torch.int64, pin_memory=True) for _ in range(2))
    sampler.batch(3, out=(out[0], out[1]))
    assert all(map(torch.equal, out, sampler.batch(3)))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: torch.empty(4, 16, dtype=torch.int32), r"int32 \(4, 16\)"),
        (lambda: torch.empty(4, 15, dtype=torch.int64), r"int64 \(4, 15\)"),
        (lambda: torch.empty(64, dtype=torch.int64), r"int64 \(64,\)"),
        (lambda: torch.empty(16, 4, dtype=torch.int64).T, "non-contiguous int64"),
        (lambda: np.empty((4, 32), np.int64)[:, ::2], "non-contiguous int64"),
        (lambda: np.empty((4, 16), ">i8"), ">i8"),
        (lambda: np.broadcast_to(np.int64(0), (4, 16)), "read-only"),
        (lambda: torch.empty(4, 16, dtype=torch.int64, device="meta"), "on meta"),
        (lambda: [[0] * 16] * 4, "is a list"),
    ],
)
def test_out_that_does_not_fit_is_refused(
    counting: Counting, make: Callable[[], Any], found: str
) -> None:
    sampler = BatchSampler(counting(1000), 4, 16)
    good = np.full((4, 16), -1)
    with pytest.raises(ValueError, match=f"x must be .*{found}"):
        sampler.batch(0, out=(make(), good))
    with pytest.raises(ValueError, match=f"y must be .*{found}"):
        sampler.batch(0, out=(good, make()))
    assert (good == -1).all()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"block_size": 0}, "block_size 0"),
        ({"block_size": 100}, r"100 tokens .*block_size 100 takes 100 \+ 1"),
        ({"world_size": 0}, "world_size 0"),
        ({"world_size": 3}, "batch_size 8 .*3 ranks.* 6 and 9"),
        ({"rank": 2, "world_size": 2}, "rank 2 .*0 to 1"),
        ({"rank": -1}, "rank -1"),
        ({"seed": -1}, "got -1"),
        ({"seed": 2**64}, r"seed must be in 0 to 2\*\*64 - 1"),
        ({"sampling": "shuffle"}, "'shuffle' is none of 'permutation', 'random'"),
    ],
)
def test_options_that_make_no_batch(
    counting: Counting, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        BatchSampler(counting(100), **({"batch_size": 8, "block_size": 8} | options))  # type: ignore[arg-type]


def test_a_step_out_of_range_is_refused(counting: Counting) -> None:
    sampler = BatchSampler(counting(100), 8, 8)
    for step in (-1, -(2**63), 2**60 - 1):
        with pytest.raises(InputError, match=f"step {step} .*0 to {2**60 - 2}"):
            sampler.batch(step)
    sampler.batch(2**60 - 2)
