"""Continuous batching: requests join and leave a batch between two steps (Orca, Yu et al. 2022).

    engine = Engine(model, tokenizer)
    key = engine.add(Request(tokenizer.encode("The future of AI is"), max_new_tokens=50))
    while engine.active:
        for piece in engine.step():
            print(piece.text, end="", flush=True)

Each request has its own random numbers. With the native decoder (`pygpt.inference.decoders`) its
logits do not depend on the other requests, bit for bit, so its text is the same alone and in any
batch. With the eager one they agree up to rounding: a choice between two nearly equal ids may
differ, and with it the rest of the text.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pygpt.inference.decoders import Decoder, Dtype, Quantize, make_decoder
from pygpt.inference.sampling import Sampling
from pygpt.inference.stream import TextStream
from pygpt.model import GPT
from pygpt.tokenizers.base import Tokenizer
from pygpt.utils.errors import InputError, check_seed

FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt and how to continue it."""

    ids: Sequence[int]
    """The prompt, at least one id; the model reads the last block_size of them."""
    max_new_tokens: int
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """Non-empty strings that end the text and are not part of it."""
    stop_ids: frozenset[int] = frozenset()
    """Ids that end the text, in addition to end-of-text; padded ids are allowed."""
    seed: int = 1337
    logprobs: bool = False
    """Whether to compute `Piece.logprob`."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One new id of one request."""

    key: int
    """The request: what `Engine.add` returned."""
    token: int
    """The chosen id."""
    text: str
    """The text that is certain with this id, often empty: whole characters, no part of a stop
    string."""
    logprob: float | None
    """Natural logarithm of the id's probability at temperature 1, over all ids of the model; None
    unless asked for."""
    finish_reason: FinishReason | None
    """None until the last piece. "stop": end-of-text, a stop string or a stop id; "length":
    max_new_tokens."""


class Engine:
    """Continues up to `max_batch` requests at once; further ones wait for a free row.

    GPT-2's positions are absolute. When a row has filled block_size positions, the newer half of
    its ids is read again from position 0: one pass over block_size/2 positions for every
    block_size/2 ids, and each id sees at least the block_size/2 ids before it.

    Args:
        model: in eval mode.
        tokenizer: the model's; padded ids, which it lacks, are never chosen unless they are stop
            ids.
        max_batch: rows, each with a cache for block_size positions.
        dtype: "float32" or "bfloat16" weights; "auto" is autocast's where it is on, and the
            model's otherwise.
        quantize: "int8" rounds the weights to int8 with a scale for each row, on a CPU.

    Raises:
        InputError: max_batch below 1, or a dtype or quantize that can't run here.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        max_batch: int = 8,
        dtype: Dtype = "auto",
        quantize: Quantize | None = None,
    ) -> None:
        if max_batch < 1:
            raise InputError(f"max_batch must be at least 1, got {max_batch}")
        self._config = model.config
        self._tokenizer = tokenizer
        self._decoder: Decoder = make_decoder(model, max_batch, dtype=dtype, quantize=quantize)
        self._free = list(range(max_batch))
        self._waiting: collections.deque[_Text] = collections.deque()
        self._running: dict[int, _Text] = {}  # by row
        self._keys = itertools.count()

    @property
    def active(self) -> int:
        """Number of unfinished requests, including those that wait."""
        return len(self._waiting) + len(self._running)

    @property
    def description(self) -> str:
        """The decoder and the types of its weights, for a log."""
        return self._decoder.description

    def add(self, request: Request) -> int:
        """Queue a request; the next step starts it if a row is free.

        Returns:
            Its key, which its pieces carry.

        Raises:
            InputError: an empty prompt, ids outside of the model's vocabulary, max_new_tokens
                below 1, an empty stop string, or a seed outside 0 to 2**64 - 1.
        """
        self._check(request)
        key = next(self._keys)
        self._waiting.append(_Text(key, request, self._tokenizer, self._config.vocab_size))
        return key

    def cancel(self, key: int) -> None:
        """Drop a request; does nothing if it is finished already."""
        self._waiting = collections.deque(text for text in self._waiting if text.key != key)
        for row, text in list(self._running.items()):
            if text.key == key:
                self._leave(row)

    def step(self) -> list[Piece]:
        """Add one id to every request that has a row.

        Returns:
            A piece for each, in the order of rows; empty if there is no request.
        """
        while self._free and self._waiting:
            row = min(self._free)
            self._free.remove(row)
            self._running[row] = self._waiting.popleft()
        pieces = []
        for row, logits in sorted(self._logits().items()):
            piece = self._running[row].choose(logits)
            pieces.append(piece)
            if piece.finish_reason:
                self._leave(row)
        return pieces

    def _logits(self) -> dict[int, Tensor]:
        """The logits (V,) of every row's next id."""
        found, going_on = {}, []
        for row, text in self._running.items():
            window = text.window(self._config.block_size)
            if window:
                found[row] = self._decoder.read(row, window)
            else:
                going_on.append(row)
        if going_on:
            last = [self._running[row].ids[-1] for row in going_on]
            found |= zip(going_on, self._decoder.step(going_on, last), strict=True)
        return found

    def _leave(self, row: int) -> None:
        del self._running[row]
        self._free.append(row)

    def _check(self, request: Request) -> None:
        if not request.ids:
            raise InputError(
                "a prompt needs at least one id; end_of_text alone starts a new document"
            )
        for index in (*request.ids, *request.stop_ids):
            if not 0 <= index < self._config.vocab_size:
                raise InputError(
                    f"id {index} is not in the model's vocabulary, "
                    f"which has the ids 0 to {self._config.vocab_size - 1}"
                )
        if request.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")
        if not all(request.stop):
            raise InputError("a stop string can't be empty")
        check_seed(request.seed)


class _Text:
    """A request and the text generated for it so far."""

    def __init__(self, key: int, request: Request, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.key = key
        self.ids = list(request.ids)
        self._request = request
        self._n_cached = 0  # positions filled in its row: its newest ids except the last
        self._generator = torch.Generator().manual_seed(request.seed)
        self._stream = TextStream(tokenizer, request.stop)
        self._stop_ids = {tokenizer.info.end_of_text, *request.stop_ids}
        padding = set(range(tokenizer.info.n_vocab, vocab_size)) - self._stop_ids
        self._never = torch.tensor(sorted(padding), dtype=torch.int64)

    def window(self, block_size: int) -> list[int]:
        """The ids to read into an emptied row; [] if the last id alone continues the row."""
        if self._n_cached == 0:
            window = self.ids[-block_size:]
        elif self._n_cached == block_size:
            window = self.ids[-max(1, block_size // 2) :]
        else:
            self._n_cached += 1
            return []
        self._n_cached = len(window)
        return window

    def choose(self, logits: Tensor) -> Piece:
        """Choose the next id from its logits (V,), which are overwritten."""
        request = self._request
        total = logits.logsumexp(dim=-1) if request.logprobs else None
        logits[self._never.to(logits.device)] = -torch.inf
        seen = None
        if request.sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(self.ids)), device=logits.device)
        token = request.sampling.choose(logits, self._generator, seen)
        logprob = None if total is None else float(logits[token] - total)
        self.ids.append(token)
        reason: FinishReason | None = None
        text = ""
        if token in self._stop_ids:
            reason = "stop"
        else:
            text = self._stream.push(token)
            if self._stream.stopped:
                reason = "stop"
            elif len(self.ids) - len(request.ids) == request.max_new_tokens:
                reason = "length"
        if reason:
            text += self._stream.flush()
            # An incomplete character becomes U+FFFD, which may complete a stop string.
            reason = "stop" if self._stream.stopped else reason
        return Piece(self.key, token, text, logprob, reason)
