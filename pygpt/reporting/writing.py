"""What a model writes: completions of fixed prompts, repetition in them, and copied training text.

torch is imported only by the functions that run a model.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygpt.reporting.language import Message, msg
from pygpt.runs.models import load, locate
from pygpt.runs.run import Run
from pygpt.utils.errors import InputError

if TYPE_CHECKING:
    from pygpt.tokenizers.base import Tokenizer

Ids = NDArray[np.int64]

PROMPTS = (
    "The future of AI is",
    "Once upon a time",
    "The capital of France is",
    "In 1969, the first people",
    "def main():",
)
"""The run's own prompt comes second, where its configuration has one."""

TOKENS, TEMPERATURE, TOP_K, SEED = 64, 0.8, 200, 1337
"""Of a completion; the sampling is the default of `python -m pygpt.sample`."""

SHORTEST_COPY = 8
"""Tokens in a row that count as copied."""
SEARCHED = 100_000_000
"""Training tokens that are searched at most, from the start of the split."""
_CHUNK = 1 << 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TABLE_BITS = 16


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a model wrote behind a prompt, up to end-of-text."""

    model: str
    prompt: str
    text: str
    ids: Ids
    """(n,), without the prompt and end-of-text."""
    mean_logprob: float | None
    """Of an id, by the model itself at temperature 1, in nats; None for no ids."""
    copied: str | None = None
    """The longest part that is in the training split, "" for none of 8 tokens; None: not known."""
    copied_tokens: int = 0

    def distinct(self, n: int) -> float:
        """Different n-grams, as a part of all (Li et al. 2016, arXiv 1510.03055); 1 for none."""
        grams = [tuple(self.ids[i : i + n].tolist()) for i in range(len(self.ids) - n + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0

    @property
    def loop(self) -> int:
        """Tokens of the longest stretch that is one passage three times in a row or more."""
        return longest_loop(self.ids)


@dataclasses.dataclass(frozen=True)
class Writing:
    """The completions of a run's model, and of the model it is compared with."""

    completions: tuple[Completion, ...] = ()
    refused: tuple[tuple[str, Message | str], ...] = ()
    """Model and the reason why it wrote nothing, or not behind some prompt."""
    searched: int = 0
    """Training tokens that were searched for copies, from the first one."""
    n_train: int = 0
    not_searched: str = ""
    """Why the training split was not searched."""


def write(path: Path, n_prompts: int, compare: str | None = None) -> Writing:
    """Let a run's newest checkpoint write, and the model beside it.

    Args:
        path: the run's directory; anything else is refused in the result.
        n_prompts: how many prompts, at most ``len(PROMPTS)``.
        compare: what `pygpt.runs.models.locate` takes; None for no second model.
    """
    run = Run(path)
    if not run.started:
        reason = msg("a log holds no weights; give a run's directory")
        return Writing(refused=((path.name, reason),))
    config = run.config()
    prompts = list(dict.fromkeys([PROMPTS[0], config.prompt, *PROMPTS[1:]]))
    prompts = [prompt for prompt in prompts if prompt][:n_prompts]
    found: list[Completion] = []
    refused: list[tuple[str, Message | str]] = []
    tokenizers: dict[str, Tokenizer] = {}
    for name in (str(path), *([compare] if compare else [])):
        try:
            locate(name)
            found += _complete(name, prompts, tokenizers, refused)
        except InputError as error:
            refused.append((name, str(error)))
    writing = Writing(tuple(found), tuple(refused))
    data = config.data_parts[0].path if len(config.data_parts) == 1 else None
    return _search(writing, data, tokenizers) if found else writing


def _complete(
    name: str,
    prompts: Sequence[str],
    tokenizers: dict[str, Tokenizer],
    refused: list[tuple[str, Message | str]],
) -> Iterator[Completion]:
    from pygpt.inference.generation import generate
    from pygpt.inference.sampling import Sampling
    from pygpt.planning.hardware import start_device

    model, tokenizer = load(name, device=start_device("auto"))
    tokenizers[name] = tokenizer
    length = min(TOKENS, model.config.block_size // 2)
    sampling = Sampling(TEMPERATURE, TOP_K)
    for prompt in prompts:  # one by one: `sample --prompt`, which the report names, writes the same
        try:
            (written,) = generate(
                model, tokenizer, prompt, length, sampling=sampling, seed=SEED, logprobs=True
            )
        except InputError as error:  # a character that a small vocabulary lacks
            refused.append((name, str(error)))
            continue
        n = len(written.ids) - (written.ids[-1] == tokenizer.info.end_of_text)
        mean = statistics.fmean(written.logprobs[:n]) if written.logprobs and n else None
        ids = np.array(written.ids[:n], dtype=np.int64)
        yield Completion(name, prompt, tokenizer.decode(ids.tolist()), ids, mean)


def longest_loop(ids: Ids) -> int:
    """Ids of the longest stretch that is one passage three times in a row or more; 0 for none."""
    longest = 0
    for period in range(1, len(ids) // 3 + 1):
        run = 0
        for same in ids[period:] == ids[:-period]:
            run = run + 1 if same else 0
            if run >= 2 * period:
                longest = max(longest, run + period)
    return longest


def _search(writing: Writing, data: Path | None, tokenizers: dict[str, Tokenizer]) -> Writing:
    """Fill in the copies of those whose ids are the training split's."""
    from pygpt.data.dataset import TokenDataset

    try:
        if data is None:
            raise InputError("the run's configuration does not name one dataset")
        dataset = TokenDataset(data, "train")
    except InputError as error:
        return dataclasses.replace(writing, not_searched=str(error))
    same = {name for name, of in tokenizers.items() if of.info == dataset.tokenizer}
    passages = [one.ids for one in writing.completions if one.model in same]
    n = min(dataset.n_tokens, SEARCHED)
    copies = iter(longest_copies(dataset.window, n, passages))

    def searched(one: Completion) -> Completion:
        if one.model not in same:
            return one
        part = one.ids[next(copies)]
        text = tokenizers[one.model].decode(part.tolist())
        return dataclasses.replace(one, copied=text, copied_tokens=len(part))

    return dataclasses.replace(
        writing,
        completions=tuple(map(searched, writing.completions)),
        searched=n,
        n_train=dataset.n_tokens,
        not_searched="" if len(same) == len(tokenizers) else "its tokenizer is not the run's",
    )


def longest_copies(
    read: Callable[[int, int], Ids], n_tokens: int, passages: Sequence[Ids]
) -> list[slice]:
    """The longest part of each passage that stands in a text, of `SHORTEST_COPY` ids or more.

    Reads the text once, in chunks, and compares the hashes of its windows of `SHORTEST_COPY` ids
    with the passages'; places with an equal hash are compared id by id.

    Args:
        read: start, length → ids (length,) of the text.
        n_tokens: length of the text.
        passages: ids (n,) each.

    Returns:
        For each passage the part; an empty slice where there is none.
    """
    best = [slice(0, 0) for _ in passages]
    hashes = [_hashes(passage) for passage in passages]
    table = np.zeros(1 << _TABLE_BITS, dtype=bool)
    for of in hashes:
        table[_table_index(of)] = True
    overlap = max((len(passage) for passage in passages), default=0)
    for start in range(0, n_tokens if table.any() else 0, _CHUNK):
        ids = read(start, min(_CHUNK + overlap, n_tokens - start))
        codes = _hashes(ids)
        at = np.flatnonzero(table[_table_index(codes)])
        for i, passage in enumerate(passages):
            for first, code in enumerate(hashes[i]):
                length = _extent(ids, at[codes[at] == code], passage[first:])
                if length >= max(SHORTEST_COPY, best[i].stop - best[i].start + 1):
                    best[i] = slice(first, first + length)
    return best


def _hashes(ids: Ids) -> NDArray[np.uint64]:
    """A hash of each window of `SHORTEST_COPY` ids, (n - SHORTEST_COPY + 1,)."""
    n = max(0, len(ids) - SHORTEST_COPY + 1)
    codes = np.zeros(n, dtype=np.uint64)
    for i in range(SHORTEST_COPY):
        codes += ids[i : i + n].astype(np.uint64)
        codes *= _MULTIPLIER
    return codes


def _table_index(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    index: NDArray[np.uint64] = codes >> np.uint64(64 - _TABLE_BITS)
    return index


def _extent(ids: Ids, at: NDArray[np.intp], passage: Ids) -> int:
    """The most ids of the passage's beginning that stand in `ids` from one of the places `at`."""
    length = 0
    while length < len(passage):
        at = at[at + length < len(ids)]
        at = at[ids[at + length] == passage[length]]
        if not len(at):
            break
        length += 1
    return length
