"""Amounts as text."""

from __future__ import annotations


def gib(n_bytes: float) -> str:
    """A number of bytes, in GiB."""
    return f"{n_bytes / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """A time, in the unit that makes it short."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
