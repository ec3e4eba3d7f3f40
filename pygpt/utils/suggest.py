"""The hint behind an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """The closest of `names`; where none is close, `otherwise`, or all of them."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return otherwise or f"there are {', '.join(names)}"
