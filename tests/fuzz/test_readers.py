"""Readers on damaged files: a result or an `InputError`; no other exception, no warning, no hang.

By hand, 100,000 files in all::

    PYGPT_FUZZ_FILES=100000 python -m pytest tests/fuzz/test_readers.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pygpt.utils.errors import InputError
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import Target, targets

FILES = int(os.environ.get("PYGPT_FUZZ_FILES", "1000"))
SECONDS = 10  # of CPU time for one file; the slowest that is not damaged takes a fifth of one


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """End what computes for SECONDS; a wait that does not end is pytest-timeout's to end."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"computed for {SECONDS} s")

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("name", targets())
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = targets()[name]

    @settings(
        max_examples=max(10, FILES // len(targets())),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32), st.lists(st.integers(0, 2**32), max_size=4))
    @example(0, [])
    def check(which: int, numbers: list[int]) -> None:
        with limited_time():
            read_damaged(target, tmp_path / "files", which, numbers)

    check()


def read_damaged(target: Target, folder: Path, which: int, numbers: list[int]) -> None:
    """Write the target's files, one of them damaged, and read them."""
    shutil.rmtree(folder, ignore_errors=True)
    victim = target.damaged[which % len(target.damaged)]
    for name, content in target.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(content, numbers) if name == victim else content)
    refused = () if not numbers else (InputError,)
    with warnings.catch_warnings(), contextlib.suppress(*refused):
        warnings.simplefilter("error")
        target.read(folder)
