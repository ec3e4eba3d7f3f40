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
    chat: str | None = None
    """The chat template whose special tokens are the ids behind end-of-text; None without one."""

    def extends(self, other: TokenizerInfo) -> bool:
        """Whether every id of `other` means the same here: equal, or plus a chat template."""
        return self == other or (
            self.chat is not None
            and other.chat is None
            and (self.name, self.end_of_text, self.characters)
            == (other.name, other.end_of_text, other.characters)
        )

    def fields(self) -> dict[str, Any]:
        """What is stored as JSON: ``TokenizerInfo(**fields)`` reads it back."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if value is not None}
