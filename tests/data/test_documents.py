"""What C++ does for each document of a batch: its hash, and its place among the ids."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from pygpt import _C


def test_hashes_are_those_of_hashlib(seed: int) -> None:
    rng = random.Random(seed)
    texts = [rng.randbytes(n) for n in (*range(300), 4095, 4096, 4097, 300_001)]
    rng.shuffle(texts)
    for key in (b"0", str(rng.getrandbits(64)).encode(), rng.randbytes(64)):
        expected = [hashlib.blake2b(text, key=key, digest_size=16).digest() for text in texts]
        assert _C.keyed_hashes(texts, key) == b"".join(expected)
    assert _C.keyed_hashes([], b"0") == b""


@pytest.mark.parametrize("key", [b"", bytes(65)])
def test_a_key_of_no_length(key: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        _C.keyed_hashes([b"a"], key)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_rows_are_joined(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, 50)
    ids = rng.integers(0, 1 << 16, lengths.sum(), dtype=np.uint32)
    ends = rng.random(50) < 0.7
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    expected: list[int] = []
    for row, end in zip(np.split(ids, offsets[1:-1]), ends, strict=True):
        expected += [*row.tolist(), *([7] if end else [])]
    joined = _C.join_rows(ids, offsets, ends, 7, dtype)
    assert joined.dtype == np.dtype(dtype)
    assert joined.tolist() == expected


@pytest.mark.parametrize("offsets", [[0, 3], [0, 1, 4], [1, 2, 3], [0, 5, 3], [0, -1, 3]])
def test_offsets_that_do_not_fit(offsets: list[int]) -> None:
    ids, ends = np.zeros(3, np.uint32), np.zeros(2, bool)
    with pytest.raises(ValueError, match="offsets must rise"):
        _C.join_rows(ids, np.array(offsets), ends, 0, "uint16")
