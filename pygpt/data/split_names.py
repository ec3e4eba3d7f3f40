"""Which split a shard without dataset.json belongs to, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pygpt.utils.errors import InputError

Name = TypeVar("Name", str, Path)

# Split names that people give files; a file that bears two of them is refused.
_SPLIT_WORDS = frozenset({"train", "val", "valid", "validation", "dev", "test", "eval"})


def shards_named(names: Iterable[Name], split: str) -> list[Name]:
    """Those of `names` that have the split's name as a whole word, in their order.

    Raises:
        InputError: a name has the names of two splits.
    """
    shards = []
    for name in names:
        words = set(re.split(r"[^a-z0-9]+", Path(name).stem.lower()))
        claims = sorted(words & (_SPLIT_WORDS | {split.lower()}))
        if len(claims) > 1:
            raise InputError(
                f"{name} could belong to the splits {' and '.join(claims)}; rename it so that one "
                "of these words is left, or move it elsewhere"
            )
        if claims == [split.lower()]:
            shards.append(name)
    return shards
