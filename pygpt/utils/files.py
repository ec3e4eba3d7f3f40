"""Where files lie that are kept between runs, and what those need that must outlive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where pygpt keeps what it would otherwise find out anew: ``~/.cache/pygpt``.

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


def replace_text(path: Path, text: str) -> None:
    """Write a file beside, flush it and rename it: there is always the old one or the new one.

    Raises:
        OSError: the disk refuses it.
    """
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)
