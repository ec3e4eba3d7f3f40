"""What an evaluation asks of a model: pygpt's own, or any causal model of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from pygpt.model import GPT
from pygpt.tokenizers.base import Tokenizer

LOGITS_AT_ONCE = 1 << 24
"""Numbers in one block of logits: 64 MB of fp32."""


class LanguageModel(Protocol):
    """A model with its tokenizer."""

    context: int
    """Ids it can read at once."""
    end_of_text: int
    """The id that starts a text."""
    device: torch.device

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    def logits(self, ids: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
        """The logits (n, V) behind ids[rows, columns], in order, in blocks whose n add up.

        Args:
            ids: (B, T), with anything behind the end of a shorter row.
            rows: (N,) indices into B.
            columns: (N,) indices into T.
        """


class PygptModel:
    """A `GPT` as a `LanguageModel`. Only logits that are asked for are computed."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context = model.config.block_size
        self.end_of_text = tokenizer.info.end_of_text
        self.device = model.wte.weight.device

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self.tokenizer.encode(text)

    def logits(self, ids: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
        """See `LanguageModel.logits`."""
        hidden = self.model.hidden(ids)[rows, columns]
        at_once = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        for part in torch.split(hidden, at_once):
            yield self.model.head(part)


class TransformersModel:
    """A causal model of transformers as a `LanguageModel`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context = int(model.config.max_position_embeddings)
        start = tokenizer.bos_token_id
        self.end_of_text = int(tokenizer.eos_token_id if start is None else start)
        self.device = model.device

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def logits(self, ids: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
        """See `LanguageModel.logits`."""
        yield self.model(ids).logits[rows, columns]
