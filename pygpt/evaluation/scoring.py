"""Log-probability of a continuation after a context: every task is made of these.

Texts become ids as in lm-evaluation-harness (`TemplateLM._encode_pair`, 0.4.13): context and
continuation are encoded together and cut where the context's own ids end, spaces at the end of the
context belong to the continuation, and an empty context is end-of-text.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from pygpt.evaluation.language_model import LanguageModel
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 2048
"""Ids in a batch on a CPU, at most: GPT-2's activations of more leave the caches.

On two cores with AMX, 64 rows of LAMBADA in batches of 512, 2,048 and 8,192 ids took 1.2, 1.0 and
1.5 s in bf16.
"""


@dataclasses.dataclass(frozen=True)
class Request:
    """Ids to score, after ids that are given."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Score:
    """A model's predictions of a continuation, id by id."""

    logprobs: tuple[float, ...]
    """Natural logarithms."""
    greedy: tuple[bool, ...]
    """Whether the id is the likeliest."""

    @property
    def logprob(self) -> float:
        """Of the whole continuation."""
        return sum(self.logprobs)

    @property
    def all_greedy(self) -> bool:
        """Whether greedy decoding would write the continuation."""
        return all(self.greedy)


def encode_pair(model: LanguageModel, context: str, continuation: str) -> Request:
    """The ids of a context and of its continuation.

    Raises:
        InputError: the continuation has no ids of its own.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not kept:
        request = Request([model.end_of_text], model.encode(continuation))
    else:
        ids, n = model.encode(kept + continuation), len(model.encode(kept))
        request = Request(ids[:n], ids[n:])
    if not request.continuation:
        raise InputError(f"the continuation {continuation!r:.60} of {context!r:.60} is empty")
    return request


@torch.no_grad()
def score(
    model: LanguageModel,
    requests: Sequence[Request],
    *,
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Score each request, the longest first, in batches of rows of similar length.

    A context that is too long is cut at its start.

    Args:
        model: the model.
        requests: in any order; the scores come in the same one.
        batch_tokens: ids at once, padding included; on a CPU at most CPU_BATCH_TOKENS.
        progress: called with the requests done and to do.

    Raises:
        InputError: a continuation is longer than the model's context.
    """
    rows = [_row(model, request) for request in requests]
    n_cut = sum(
        len(row) < len(request.context) + len(request.continuation) - 1
        for row, request in zip(rows, requests, strict=True)
    )
    if n_cut:
        logger.info("%d of %d contexts are cut to %d ids", n_cut, len(rows), model.context)
    if model.device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    scores: dict[int, Score] = {}
    for batch in _batches(order, rows, batch_tokens):
        found = _score_batch(model, [rows[i] for i in batch], [requests[i] for i in batch])
        scores.update(zip(batch, found, strict=True))
        if progress:
            progress(len(scores), len(requests))
    return [scores[i] for i in range(len(requests))]


def _row(model: LanguageModel, request: Request) -> list[int]:
    """The ids the model reads: all but the last, which is only predicted."""
    if len(request.continuation) > model.context:
        raise InputError(
            f"a continuation of {len(request.continuation)} ids, and the model has a context of "
            f"{model.context}; evaluate a model with a longer one"
        )
    return [*request.context, *request.continuation][-(model.context + 1) : -1]


def _batches(
    order: Sequence[int], rows: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[list[int]]:
    start = 0
    while start < len(order):
        n = max(1, batch_tokens // len(rows[order[start]]))
        yield list(order[start : start + n])
        start += n


def _score_batch(
    model: LanguageModel, rows: Sequence[Sequence[int]], requests: Sequence[Request]
) -> list[Score]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    where: list[tuple[int, int]] = []
    for i, (row, request) in enumerate(zip(rows, requests, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        first = len(row) - len(request.continuation)
        where += [(i, column) for column in range(first, len(row))]
    positions = torch.tensor(where, device=model.device)
    targets = torch.tensor([index for r in requests for index in r.continuation])
    logprobs, greedy, start = [], [], 0
    for block in model.logits(ids.to(model.device), positions[:, 0], positions[:, 1]):
        logits = block if block.dtype == torch.float64 else block.float()
        target = targets[start : start + len(logits)].to(model.device)
        start += len(logits)
        chosen = logits.gather(1, target[:, None])[:, 0]
        logprobs += (chosen - logits.logsumexp(1)).tolist()
        greedy += (logits.argmax(1) == target).tolist()
    scores, start = [], 0
    for request in requests:
        part = slice(start, start := start + len(request.continuation))
        scores.append(Score(tuple(logprobs[part]), tuple(greedy[part])))
    return scores
