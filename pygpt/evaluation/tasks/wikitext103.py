"""WikiText-103 (Merity et al. 2016): perplexity over whole articles of Wikipedia.

An example, of 60 articles in the test set, begins::

    = Robert Boulter =

    Robert Boulter is an English film , television and theatre actor . He had a guest @-@ starring
    role on the television series The Bill in 2000 .

Its text is tokenised; before a model reads it that is undone ("detokenised"), and perplexity is
still counted by the original's words. Published for GPT-2 (Radford et al. 2019, table 3): 37.50,
26.37, 22.05 and 17.48 for the four sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygpt.evaluation import task_file
from pygpt.evaluation.language_model import LanguageModel
from pygpt.evaluation.multiple_choice import Progress
from pygpt.evaluation.results import Result, perplexity_and_stderr
from pygpt.evaluation.scoring import Request, score
from pygpt.utils.errors import InputError

EXAMPLE = '{"page": " = Robert Boulter = \\n \\n Robert Boulter is an English film , …"}'
_TITLE = re.compile(r" = [^=](.*[^=])? = ")

# What the tokenisation of WikiText did, undone, in this order: pattern, replacement.
_DETOKENISE: tuple[tuple[str, str], ...] = (
    (r"s '", "s'"),
    (r"/' [0-9]/", r"/'[0-9]/"),
    (r" @-@ ", "-"),
    (r" @,@ ", ","),
    (r" @\.@ ", "."),
    (r" ([:;.!?,]) ", r"\1 "),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (rf" {chr(176)} ", chr(176)),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)


def detokenise(text: str) -> str:
    """Ordinary text of WikiText's tokenised text, as lm-evaluation-harness does it."""
    for pattern, replacement in _DETOKENISE:
        text = re.sub(pattern, replacement, text)
    return text


def articles(text: str) -> list[str]:
    """The articles of a ``wiki.test.tokens``: each starts at a line `` = Title = ``."""
    found: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if _TITLE.fullmatch(line.rstrip("\n")) or not found:
            found.append([])
        found[-1].append(line)
    return [page for lines in found if (page := "".join(lines)).strip()]


def _convert(fields: dict[str, Any]) -> str:
    page = fields["page"] if "page" in fields else fields["text"]
    if not isinstance(page, str) or not page.strip():
        raise ValueError("the page is not a text")
    return page


class WikiText103:
    """The task, counted by words and by tokens."""

    name = "wikitext103"
    files = ("wikitext103.jsonl", "wiki.test.tokens", "wiki.test.raw")
    hub = task_file.HubFile("EleutherAI/wikitext_document_level", "wikitext-103-raw-v1", "test")

    def read(self, path: Path) -> list[str]:
        """The articles of its file; see `task_file.read`."""
        if path.suffix in (".jsonl", ".parquet"):
            return task_file.read(path, _convert, EXAMPLE)
        found = articles(task_file.text(path))
        if not found:
            raise InputError(f"{path} has no articles")
        return found

    def evaluate(
        self,
        model: LanguageModel,
        items: Sequence[str],
        *,
        batch_tokens: int = 8192,
        progress: Progress = None,
    ) -> list[Result]:
        """Two results: by words of the original, and by the model's tokens."""
        texts = [detokenise(page) for page in items]
        windows = [rolling(model, text) for text in texts]
        flat = [request for requests in windows for request in requests]
        scores = iter(score(model, flat, batch_tokens=batch_tokens, progress=progress))
        nats = [-sum(next(scores).logprob for _ in requests) for requests in windows]
        words = [float(len(re.split(r"\s+", page))) for page in items]
        tokens = [float(sum(len(r.continuation) for r in requests)) for requests in windows]
        n_bytes = sum(len(page.encode()) for page in items)
        bits = sum(nats) / math.log(2) / n_bytes
        return [
            _result("wikitext103", "detokenised, by words of the original", nats, words, bits),
            _result("wikitext103_tokens", "detokenised, by the model's tokens", nats, tokens, bits),
        ]


def rolling(model: LanguageModel, text: str) -> list[Request]:
    """A text in windows of the model's context; every token is scored once.

    The first window follows end-of-text, each other the last id before it; the last window is
    filled up with what comes before it.
    """
    ids, size = model.encode(text), model.context
    requests = [Request([model.end_of_text], ids[:size])]
    for start in range(size, len(ids), size):
        end = min(start + size, len(ids))
        requests.append(Request(ids[end - size - 1 : start], ids[start:end]))
    return requests


def _result(
    task: str, protocol: str, nats: Sequence[float], units: Sequence[float], bits: float
) -> Result:
    perplexity, error = perplexity_and_stderr(nats, units)
    return Result(
        task,
        protocol,
        len(nats),
        perplexity=perplexity,
        stderr=error,
        perplexity_stderr=error,
        bits_per_byte=bits,
    )


TASK = WikiText103()
