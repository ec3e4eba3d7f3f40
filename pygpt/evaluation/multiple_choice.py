"""Multiple choice: the likeliest of some texts, as lm-evaluation-harness scores it.

Each choice is a context and a continuation. Usually the choices share the context; in WinoGrande
they share the continuation ("partial scoring", Trinh and Le 2018). Accuracy compares
log-probabilities; normalised accuracy divides each by its continuation's length in characters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pygpt.evaluation import task_file
from pygpt.evaluation.language_model import LanguageModel
from pygpt.evaluation.results import Result, mean_and_stderr
from pygpt.evaluation.scoring import encode_pair, score

Progress = Callable[[int, int], None] | None


@dataclasses.dataclass(frozen=True)
class Item:
    """One question."""

    choices: tuple[tuple[str, str], ...]
    """(context, continuation) of each; the continuation with its leading space."""
    gold: int
    """Index of the right one."""

    def __post_init__(self) -> None:
        if not 0 <= self.gold < len(self.choices):
            raise ValueError(f"gold is {self.gold}, and there are {len(self.choices)} choices")


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """A task of this form."""

    name: str
    files: tuple[str, ...]
    """Names that its file may have."""
    hub: task_file.HubFile
    convert: Callable[[dict[str, Any]], Item]
    example: str
    """A line of its file."""
    protocol: str
    normalised: bool = True
    """Whether dividing by length makes sense: not where the continuations are equal."""

    def read(self, path: Path) -> list[Item]:
        """The questions of its file; see `task_file.read`."""
        return task_file.read(path, self.convert, self.example)

    def evaluate(
        self,
        model: LanguageModel,
        items: Sequence[Item],
        *,
        batch_tokens: int = 8192,
        progress: Progress = None,
    ) -> list[Result]:
        """Score every choice of every question."""
        pairs = [pair for item in items for pair in item.choices]
        requests = [encode_pair(model, *pair) for pair in pairs]
        scores = score(model, requests, batch_tokens=batch_tokens, progress=progress)
        right, right_by_length, start = [], [], 0
        for item in items:
            end = start + len(item.choices)
            logprobs = [found.logprob for found in scores[start:end]]
            # lm-evaluation-harness measures a choice without the space before it
            lengths = [len(text.removeprefix(" ")) for _, text in item.choices]
            by_length = [value / max(1, n) for value, n in zip(logprobs, lengths, strict=True)]
            right.append(float(_argmax(logprobs) == item.gold))
            right_by_length.append(float(_argmax(by_length) == item.gold))
            start = end
        accuracy, stderr = mean_and_stderr(right)
        return [
            Result(
                self.name,
                self.protocol,
                len(items),
                accuracy=accuracy,
                accuracy_norm=mean_and_stderr(right_by_length)[0] if self.normalised else None,
                stderr=stderr,
            )
        ]


def shared_context(query: str, choices: Sequence[str], gold: object) -> Item:
    """A question whose choices continue one context, each behind a space."""
    if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise TypeError("choices is not a list of texts")
    return Item(tuple((query, f" {choice}") for choice in choices), whole_number(gold))


def whole_number(value: object) -> int:
    """An index of a choice, which some files have as a text."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{value!r} is not the number of a choice")
    return int(value)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
