"""Published figures and curves, kept as data with their source and licence."""

from __future__ import annotations

import dataclasses
import functools
import json
from importlib import resources


@dataclasses.dataclass(frozen=True)
class Size:
    """A GPT-2; the loss is zero-shot on OpenWebText's validation split (nanoGPT's README)."""

    name: str
    preset: str
    layers: int
    heads: int
    width: int
    parameters: float
    openwebtext_loss: float


GPT2_SIZES = (
    Size("GPT-2 small", "gpt2", 12, 12, 768, 124e6, 3.12),
    Size("GPT-2 medium", "gpt2-medium", 24, 16, 1024, 350e6, 2.84),
    Size("GPT-2 large", "gpt2-large", 36, 20, 1280, 774e6, 2.67),
    Size("GPT-2 XL", "gpt2-xl", 48, 25, 1600, 1558e6, 2.54),
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Validation loss of a published run by tokens."""

    name: str
    corpus: str
    source: str
    licence: str
    tokens: tuple[float, ...]
    loss: tuple[float, ...]


@functools.cache
def curves() -> tuple[Curve, ...]:
    """All that are kept."""
    text = (resources.files(__name__) / "curves.json").read_text(encoding="utf-8")
    return tuple(
        Curve(**{**fields, "tokens": tuple(fields["tokens"]), "loss": tuple(fields["loss"])})
        for fields in json.loads(text)
    )
