"""What identifies a tokenizer in a dataset and in a checkpoint."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class TokenizerInfo:
    """Identifies a tokenizer: two datasets or checkpoints with equal infos share their ids."""

    name: str
    n_vocab: int
    """Ids in use, end-of-text included; a model may pad its table beyond."""
    end_of_text: int
    hash: str
    """SHA-256 over the vocabulary: what makes ids comparable."""
