r"""LAMBADA (Paperno et al. 2016): the last word of a passage that needs all of it.

An example, of 5,153 in OpenAI's form of the test set::

    {"context": "Give me a minute to change and I'll meet you at the docks.\" She'd forced those
     words through her teeth.\n\n\"No need to change. We won't be that long.\"\n\nShane gripped her
     arm and started leading her to the dock.\n\n\"I can make it there on my own,",
     "continuation": "Shane"}

Published for GPT-2: lm-evaluation-harness, last word: accuracy 0.3256, perplexity 40.06 (gpt2).
The paper (Radford et al. 2019, table 3) has 0.4599 for gpt2; it counts the last token, given the
tokens of the word before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygpt.evaluation import task_file
from pygpt.evaluation.language_model import LanguageModel
from pygpt.evaluation.multiple_choice import Progress
from pygpt.evaluation.results import Result, mean_and_stderr, perplexity_and_stderr
from pygpt.evaluation.scoring import encode_pair, score

EXAMPLE = '{"context": "…", "continuation": "Shane"} or {"text": "… Shane"}'


def _convert(fields: dict[str, Any]) -> tuple[str, str]:
    """(context, last word)."""
    if "text" in fields:
        context, word = fields["text"].rsplit(" ", 1)
    else:
        context, word = fields["context"], fields["continuation"]
    if not word.strip() or not context.strip():
        raise ValueError("the context or the word is empty")
    return context, word


class Lambada:
    """The task, counted in two ways from one pass."""

    name = "lambada"
    files = ("lambada_openai.jsonl", "lambada_test_en.jsonl", "lambada_test.jsonl", "lambada.jsonl")
    hub = task_file.HubFile("EleutherAI/lambada_openai", "default", "test")

    def read(self, path: Path) -> list[tuple[str, str]]:
        """The passages of its file; see `task_file.read`."""
        return task_file.read(path, _convert, EXAMPLE)

    def evaluate(
        self,
        model: LanguageModel,
        items: Sequence[tuple[str, str]],
        *,
        batch_tokens: int = 8192,
        progress: Progress = None,
    ) -> list[Result]:
        """Two results: the last word, and the last token."""
        requests = [encode_pair(model, context, f" {word}") for context, word in items]
        scores = score(model, requests, batch_tokens=batch_tokens, progress=progress)
        return [
            _result(
                "lambada",
                "last word, all its tokens greedy (lm-evaluation-harness's lambada_openai)",
                [found.logprob for found in scores],
                [found.all_greedy for found in scores],
            ),
            _result(
                "lambada_last_token",
                "last token given all before it (Radford et al. 2019)",
                [found.logprobs[-1] for found in scores],
                [found.greedy[-1] for found in scores],
            ),
        ]


def _result(task: str, protocol: str, logprobs: list[float], greedy: list[bool]) -> Result:
    accuracy, stderr = mean_and_stderr([float(value) for value in greedy])
    nats = [-value for value in logprobs]
    perplexity, error = perplexity_and_stderr(nats, [1.0] * len(nats))
    return Result(
        task,
        protocol,
        len(nats),
        accuracy=accuracy,
        stderr=stderr,
        perplexity=perplexity,
        perplexity_stderr=error if math.isfinite(perplexity) else None,
    )


TASK = Lambada()
