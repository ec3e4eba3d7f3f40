"""Writing files so that a crash leaves the old content or the new, and the cache directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pygpt.utils.errors import InputError

PARTIAL = ".partial-"
"""Prefix of a file or directory that is being written, beside its final name."""


def cache_directory() -> Path:
    """Where pygpt keeps what it can compute again: ``~/.cache/pygpt``.

    The environment variable XDG_CACHE_HOME replaces ``~/.cache``, unless it is empty.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pygpt"


def sync(path: Path) -> None:
    """Flush a file's content, or a directory's names, to the disk.

    Raises:
        OSError: the disk refuses it, being full for example.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(path: Path) -> None:
    """Flush a file, or a directory and all that is in it."""
    if path.is_dir():
        for each in path.rglob("*"):
            sync(each)
    sync(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a directory at; rename it at the end.

    What was written is flushed first, so that after a power cut there is the old content or the
    new. A directory's files are flushed one by one; a directory that is already at `path` is
    moved aside for the rename, then removed. After an exception nothing of the new content is left.
    The partial name has random digits: two processes can write one path, and the last one wins.

    Raises:
        OSError: the disk refuses it.
    """
    partial = path.with_name(f"{PARTIAL}{path.name}-{secrets.token_hex(4)}")
    replaced = partial.with_name(f"{partial.name}-replaced")
    try:
        yield partial
        _sync_all(partial)
        moved = path.is_dir()
        if moved:
            path.rename(replaced)  # deleted when the new content is in its place
        try:
            partial.replace(path)
            sync(path.parent)
        except OSError:
            if path.is_dir():
                path.rename(partial)
            if moved:
                replaced.rename(path)
            raise
    finally:
        _remove(partial)
        _remove(replaced)


def replace_text(path: Path, text: str) -> None:
    """Write a text file through `replacing`.

    Raises:
        OSError: the disk refuses it.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partial(directory: Path, *names: str) -> None:
    """Delete what a killed process left half written in `directory`.

    The caller holds a lock, so that no living process is writing it.

    Args:
        directory: where.
        names: final names of the files to look for; none means all.
    """
    for pattern in [f"{PARTIAL}{name}-*" for name in names] or [f"{PARTIAL}*"]:
        for path in directory.glob(pattern):
            _remove(path)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Context in which no other process is in this context for `directory`; waits for that.

    Raises:
        OSError: the directory is missing, or its file system has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """What `directory_beside` fills."""
    path = path.resolve()
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def directory_beside(path: Path, *, keep: bool) -> Iterator[Path]:
    """Give ``PATH.partial``, locked, which becomes `path` when the block ends without an error.

    Args:
        path: the directory to make; it must not exist, or be empty.
        keep: leave the partial directory after an error, for another attempt; without it, what a
            killed process left there is deleted first.

    Raises:
        InputError: another process writes there.
        OSError: the disk refuses it.
    """
    path = path.resolve()
    partial = partial_of(path)
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing {path}; wait for it, or write to another directory"
            ) from error
        if not _is_open(partial, descriptor):
            raise InputError(f"another process has just written {path}")
        if not keep:
            for each in partial.iterdir():
                _remove(each)
        try:
            yield partial
            _sync_all(partial)
            partial.rename(path)
            try:
                sync(path.parent)
            except OSError:
                path.rename(partial)  # it may not outlive a power cut: as if it had not been there
                raise
        except BaseException:
            if not keep:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _is_open(path: Path, descriptor: int) -> bool:
    """Whether `descriptor` is of what has this path now: it may have been renamed meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
