"""Completions of prompts by one or several models: computed, then as text or as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pygpt.hub import huggingface
from pygpt.inference.decoders import Dtype, Quantize
from pygpt.inference.engine import Piece
from pygpt.inference.generation import Completion, encode, generate
from pygpt.inference.sampling import Sampling
from pygpt.model import GPT
from pygpt.tokenizers.base import Tokenizer, load_tokenizer
from pygpt.utils.errors import InputError
from pygpt.utils.progress import ProgressBar

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the completions of all models have in common."""

    prompts: Sequence[str]
    num_samples: int
    """Completions of each prompt; the seed of each is one more than that of the last."""
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    seed: int
    dtype: Dtype
    quantize: Quantize | None

    @property
    def requests(self) -> list[tuple[str, int]]:
        """Prompt and seed of every completion, in the order in which they are shown."""
        seeds = [(self.seed + i) % 2**64 for i in range(self.num_samples)]
        return [(prompt, seed) for prompt in self.prompts for seed in seeds]

    def complete(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        on_piece: Callable[[int, Piece], None],
        *,
        max_batch: int = 8,
    ) -> list[Completion]:
        """A completion for each of `requests`; see `generate`."""
        return generate(
            model,
            tokenizer,
            [prompt for prompt, _ in self.requests],
            self.max_new_tokens,
            sampling=self.sampling,
            stop=self.stop,
            seed=[seed for _, seed in self.requests],
            logprobs=True,
            max_batch=max_batch,
            dtype=self.dtype,
            quantize=self.quantize,
            on_piece=on_piece,
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to load."""

    name: str
    directory: Path
    device: torch.device
    impl: str

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse what the model's tokenizer can't encode, before the weights are read.

        Raises:
            InputError: the directory holds no model, or a prompt has characters that a small
                vocabulary lacks.
        """
        _, info = huggingface.read_config(self.directory)
        tokenizer = load_tokenizer(info)
        for number, prompt in enumerate(prompts, 1):
            try:
                encode(tokenizer, prompt)
            except InputError as error:
                raise InputError(f"prompt {number} for {self.name}: {error}") from error

    def load(self) -> tuple[GPT, Tokenizer]:
        """The model in eval mode, and its tokenizer."""
        model, info = huggingface.load(self.directory, self.device, impl=self.impl)
        logger.info("%s on %s, %s", self.directory, self.device, model.impl)
        return model.eval(), load_tokenizer(info)


@dataclasses.dataclass(frozen=True)
class Written:
    """A completion and what it continues."""

    model: str
    prompt: str
    seed: int
    completion: Completion

    @property
    def mean_logprob(self) -> float:
        """Of a chosen token, the one that ended the text included, by the model that wrote it."""
        assert self.completion.logprobs
        return statistics.fmean(self.completion.logprobs)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "model": self.model,
                "prompt": self.prompt,
                "seed": self.seed,
                "text": self.completion.text,
                "tokens": len(self.completion.ids),
                "mean_logprob": self.mean_logprob,
                "finish_reason": self.completion.finish_reason,
            }
        )


Row = tuple[Written, ...]
"""What the models wrote for one request."""


def stream(source: Source, settings: Settings) -> None:
    """Print the completions of one prompt one after another, token by token."""
    model, tokenizer = source.load()

    n = settings.num_samples

    def begin(index: int) -> None:
        if n > 1:
            gap = "\n" if index else ""
            print(f"{gap}--- {index + 1} of {n}")
        print(settings.prompts[0], end="", flush=True)

    def write(index: int, piece: Piece) -> None:
        print(piece.text, end="", flush=True)
        if piece.finish_reason:
            print()
            if index + 1 < n:
                begin(index + 1)

    begin(0)
    settings.complete(model, tokenizer, write, max_batch=1)


def write_all(
    sources: Sequence[Source], settings: Settings, show: Callable[[int, Row], None]
) -> None:
    """Complete every prompt with all models, which are loaded one by one.

    Args:
        sources: one or several models.
        settings: what they have in common.
        show: called with (index, row) for every one of `settings.requests`, in their order, as soon
            as the last model has written it and those before.
    """
    columns: list[list[Written]] = []
    for source in sources[:-1]:
        columns.append([])
        _write(source, settings, columns[-1].append, to_stdout=False)

    def show_row(written: Written) -> None:
        index = next(numbers)
        show(index, (*(column[index] for column in columns), written))

    numbers = itertools.count()
    _write(sources[-1], settings, show_row, to_stdout=True)


def _write(
    source: Source, settings: Settings, done: Callable[[Written], None], *, to_stdout: bool
) -> None:
    """Call `done` with the completions of all requests, in order, each as soon as it can be."""
    model, tokenizer = source.load()
    requests = settings.requests
    pieces: list[list[Piece]] = [[] for _ in requests]
    waiting = iter(range(len(requests)))
    current = next(waiting, None)

    def take(index: int, piece: Piece) -> None:
        nonlocal current
        pieces[index].append(piece)
        if piece.finish_reason and progress:
            progress.advance(1)
        while current is not None and pieces[current] and pieces[current][-1].finish_reason:
            completion = Completion.of(pieces[current])
            done(Written(source.name, *requests[current], completion))
            current = next(waiting, None)

    # On a terminal, texts are the progress: a bar between them would disturb.
    bar = ProgressBar(source.name, len(requests), unit="completions")
    with contextlib.nullcontext() if to_stdout and sys.stdout.isatty() else bar as progress:
        settings.complete(model, tokenizer, take)


def as_text(index: int, row: Row, settings: Settings) -> str:
    """A section: what the models wrote for a request, with their names if there are several."""
    gap = "\n" if index else ""
    return gap + _section(index, row, settings)


def _section(index: int, row: Row, settings: Settings) -> str:
    prompt, sample = divmod(index, settings.num_samples)
    counts = [
        f"{name} {number + 1} of {total}"
        for name, number, total in (
            ("prompt", prompt, len(settings.prompts)),
            ("sample", sample, settings.num_samples),
        )
        if total > 1
    ]
    heading = f"--- {', '.join(counts)}\n" if counts else ""
    if len(row) == 1:
        return f"{heading}{row[0].prompt}{row[0].completion.text}\n"
    parts = [f"{heading}{row[0].prompt}\n", *map(_under_its_name, row)]
    return "\n".join(parts)


def _under_its_name(written: Written) -> str:
    return (
        f"{written.model} ({len(written.completion.ids)} tokens, mean log-probability "
        f"{written.mean_logprob:.3f}):\n{written.completion.text}\n"
    )
