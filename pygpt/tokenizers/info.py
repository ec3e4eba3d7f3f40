"""What identifies a tokenizer in a dataset and in a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class TokenizerInfo:
    """Identifies a tokenizer: two datasets or checkpoints with equal infos share their ids."""

    name: str
    n_vocab: int
    """Ids in use, end-of-text included; a model may pad its table beyond."""
    end_of_text: int
    hash: str
    """SHA-256 over the vocabulary: what makes ids comparable."""
    characters: str | None = None
    """The table of the tokenizer "chars"; None for the others."""

    def fields(self) -> dict[str, Any]:
        """What is stored as JSON: ``TokenizerInfo(**fields)`` reads it back."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if value is not None}
