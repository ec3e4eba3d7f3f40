"""Sampling: the next id from logits, and a whole continuation with a key/value cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from pygpt.model import GPT, KVCache
from pygpt.tokenizers.base import StreamDecoder, Tokenizer
from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next id is chosen."""

    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest id (greedy)."""
    top_k: int | None = None
    """Only the k likeliest ids can be chosen."""
    top_p: float | None = None
    """Only the likeliest ids that together reach this probability (Holtzman et al. 2020)."""

    def __post_init__(self) -> None:
        # Beyond these, fp32 logits divided by it would be infinite, or all the same.
        if self.temperature != 0 and not 1e-4 <= self.temperature <= 1e4:
            raise InputError(
                f"temperature must be 0 (greedy) or from 0.0001 to 10000, got {self.temperature}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")

    def choose(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One id (B,) for each row of logits (B, V)."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits / self.temperature
        if self.top_k is not None:
            kth = logits.topk(min(self.top_k, logits.size(-1))).values[:, -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        if self.top_p is not None:
            logits = _keep_nucleus(logits, self.top_p)
        return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


def _keep_nucleus(logits: Tensor, top_p: float) -> Tensor:
    probs, order = logits.softmax(dim=-1).sort(descending=True)
    # An id goes when those before it reach top_p already; the first one always stays.
    beyond = probs.cumsum(dim=-1) - probs >= top_p
    return logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)


@torch.no_grad()
def generate(
    model: GPT,
    idx: Tensor,
    max_new_tokens: int,
    *,
    n_vocab: int,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Continue each row of `idx`, one id a step.

    The model's positions are absolute, so a context that has filled block_size is read again from
    its newer half: each further block_size/2 ids cost one pass over block_size/2 positions, and a
    new id always sees at least the block_size/2 before it.

    Args:
        model: in eval mode.
        idx: (B, T) prompt ids, T ≥ 1; only the last block_size of them are read.
        max_new_tokens: ids to yield.
        n_vocab: ids the tokenizer knows; the padded ones beyond are never chosen.
        sampling: how to choose; the default `Sampling()`.
        generator: source of randomness, on idx's device.

    Yields:
        (B,) the next id of each row.

    Raises:
        InputError: an empty prompt.
    """
    if idx.size(1) == 0:
        raise InputError("a prompt needs at least one id; start with the tokenizer's end_of_text")
    sampling = sampling or Sampling()
    block_size = model.config.block_size
    context = unread = idx[:, -block_size:]
    cache = KVCache(model.config, idx.size(0))
    for _ in range(max_new_tokens):
        if cache.length + unread.size(1) > block_size:
            context = unread = context[:, -max(1, block_size // 2) :]
            cache.length = 0
        logits = model.head(model.hidden(unread, cache)[:, -1])
        logits[:, n_vocab:] = -torch.inf
        chosen = sampling.choose(logits.float(), generator)
        yield chosen
        unread = chosen[:, None]
        context = torch.cat((context, unread), dim=1)


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """What the model writes behind `prompt`, piece by piece, up to end-of-text.

    An empty prompt starts a new document. For the other arguments see `generate`.

    Raises:
        InputError: the prompt has no UTF-8, being half of a surrogate pair.
    """
    end_of_text = tokenizer.info.end_of_text
    try:
        ids = tokenizer.encode(prompt) or [end_of_text]
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt {prompt!r} is not valid text: {error.reason}") from error
    decoder = StreamDecoder(tokenizer)
    steps = generate(
        model,
        torch.tensor([ids], device=model.wte.weight.device),
        max_new_tokens,
        n_vocab=tokenizer.info.n_vocab,
        sampling=sampling,
        generator=generator,
    )
    for chosen in steps:
        token = int(chosen)
        if token == end_of_text:
            break
        yield decoder.push(token)
    yield decoder.flush()
