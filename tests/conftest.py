"""What every test shares: fresh random inputs that can be drawn again, and poisoned memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Read where Triton's kernels are defined: without a GPU they run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def seed() -> int:
    """A fresh seed for each test, printed with a failure; PYGPT_TEST_SEED draws it again."""
    given = os.environ.get("PYGPT_TEST_SEED")
    value = int(given) if given else int.from_bytes(os.urandom(4), "little")
    print(f"PYGPT_TEST_SEED={value}")
    return value


@pytest.fixture(autouse=True, scope="session")
def poison() -> Iterator[None]:
    """Have torch.empty give NaN (the largest value of integers), so that unwritten memory shows.

    torch fills new memory (torch.utils.deterministic.fill_uninitialized_memory) only while
    deterministic algorithms are asked for; `warn_only`, because some ops have none.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
