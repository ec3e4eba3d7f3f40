"""The documents of a split, for models of any tokenizer: every model reads the same text.

Each document is read from its start, in windows of the model's context. Perplexity counts the
model's own tokens and compares models of one tokenizer; bits per byte compares all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pygpt.data import TokenDataset
from pygpt.evaluation.language_model import LanguageModel
from pygpt.evaluation.multiple_choice import Progress
from pygpt.evaluation.results import Result, perplexity_and_stderr
from pygpt.evaluation.scoring import score
from pygpt.evaluation.tasks.wikitext103 import rolling
from pygpt.tokenizers.base import load_tokenizer
from pygpt.utils.errors import InputError


def read(dataset: TokenDataset, max_tokens: int | None) -> list[str]:
    """The documents of a split, or of its first `max_tokens` ids.

    Raises:
        InputError: there is no text.
    """
    tokenizer = load_tokenizer(dataset.tokenizer)
    ids = dataset.window(0, min(len(dataset), max_tokens or len(dataset)))
    ends = np.flatnonzero(ids == tokenizer.info.end_of_text)
    parts = np.split(ids, ends + 1)
    texts = [tokenizer.decode(part[part != tokenizer.info.end_of_text]) for part in parts]
    texts = [text for text in texts if text]
    if not texts:
        raise InputError(f"the {dataset.split} split of {dataset.path} has no text")
    return texts


def evaluate(
    model: LanguageModel,
    items: Sequence[str],
    name: str,
    *,
    batch_tokens: int = 8192,
    progress: Progress = None,
) -> list[Result]:
    """One result, called `name`."""
    windows = [rolling(model, text) for text in items]
    flat = [request for requests in windows for request in requests]
    scores = iter(score(model, flat, batch_tokens=batch_tokens, progress=progress))
    nats = [-sum(next(scores).logprob for _ in requests) for requests in windows]
    tokens = [float(sum(len(r.continuation) for r in requests)) for requests in windows]
    perplexity, error = perplexity_and_stderr(nats, tokens)
    n_bytes = sum(len(text.encode()) for text in items)
    return [
        Result(
            name,
            "each document from its start, by the model's tokens and by bytes",
            len(items),
            perplexity=perplexity,
            stderr=error,
            perplexity_stderr=error,
            bits_per_byte=sum(nats) / math.log(2) / n_bytes,
        )
    ]
