"""`generate`: completions of prompts, a loop over `pygpt.inference.engine.Engine`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

from pygpt.inference.decoders import Dtype, Quantize
from pygpt.inference.engine import Engine, FinishReason, Piece, Request
from pygpt.inference.sampling import Sampling
from pygpt.model import GPT
from pygpt.tokenizers.base import Tokenizer
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    ids: tuple[int, ...]
    """The chosen ids, including the one that ended the text, which `text` leaves out."""
    logprobs: tuple[float, ...] | None
    """Of each id, natural logarithms at temperature 1; None unless asked for."""
    finish_reason: FinishReason

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Completion:
        """Put all pieces of a request together."""
        reason = pieces[-1].finish_reason
        assert reason
        logprobs = tuple(piece.logprob for piece in pieces if piece.logprob is not None)
        return cls(
            "".join(piece.text for piece in pieces),
            tuple(piece.token for piece in pieces),
            logprobs or None,
            reason,
        )


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    max_new_tokens: int = 200,
    *,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    seed: int | Sequence[int] = 1337,
    logprobs: bool = False,
    max_batch: int = 8,
    dtype: Dtype = "auto",
    quantize: Quantize | None = None,
    on_piece: Callable[[int, Piece], None] | None = None,
) -> list[Completion]:
    """Continue prompts of any lengths up to end-of-text, `max_batch` at once.

    A prompt gives the same text alone and in a batch; `pygpt.inference.engine` says for which
    decoder that holds exactly. Of a prompt that is longer than the context the model reads the
    end, and a warning says so.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        prompts: one or several texts; an empty one starts a new document.
        max_new_tokens: longest completion.
        sampling: how ids are chosen; default `Sampling()`.
        stop: strings that end a text and are not part of it.
        seed: one for all prompts, or one for each.
        logprobs: whether to return log-probabilities.
        max_batch: prompts computed at once: memory against speed.
        dtype: of the weights, "float32" or "bfloat16"; "auto" is the model's.
        quantize: "int8" for int8 weights, on a CPU.
        on_piece: called with (index of the prompt, piece) for every new id.

    Returns:
        A completion for each prompt.

    Raises:
        InputError: a prompt that is not valid text, a number out of its range, or another number
            of seeds than of prompts.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    if len(seeds) != len(prompts):
        raise InputError(f"{len(prompts)} prompts need as many seeds, or one; got {len(seeds)}")
    # The cache of a row has a size that counts: no more rows than prompts.
    rows = min(max_batch, max(1, len(prompts)))
    engine = Engine(model, tokenizer, max_batch=rows, dtype=dtype, quantize=quantize)
    sampling = sampling or Sampling()
    index_of: dict[int, int] = {}
    for index, (prompt, each) in enumerate(zip(prompts, seeds, strict=True)):
        ids = encode(tokenizer, prompt)
        if len(ids) > model.config.block_size and prompt not in prompts[:index]:
            logger.warning(
                "the prompt %r… has %s tokens: the model reads the last %s",
                prompt[:20], f"{len(ids):,}", f"{model.config.block_size:,}",
            )  # fmt: skip
        request = Request(ids, max_new_tokens, sampling, tuple(stop), seed=each, logprobs=logprobs)
        index_of[engine.add(request)] = index
    written: list[list[Piece]] = [[] for _ in prompts]
    while engine.active:
        for piece in engine.step():
            written[index_of[piece.key]].append(piece)
            if on_piece:
                on_piece(index_of[piece.key], piece)
    return [Completion.of(pieces) for pieces in written]


def encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt; end-of-text for an empty one, which starts a new document.

    Raises:
        InputError: the prompt has a lone surrogate, which UTF-8 can't encode, or a character that
            the tokenizer lacks.
    """
    try:
        return tokenizer.encode(prompt) or [tokenizer.info.end_of_text]
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt {prompt!r} is not valid text: {error.reason}") from error
