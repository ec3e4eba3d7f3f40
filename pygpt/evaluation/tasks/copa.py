"""COPA (Roemmele et al. 2011): which of two sentences is the cause or the effect.

An example, of 100 in the validation set::

    {"query": "The man turned on the faucet, therefore", "choices": ["the toilet filled with
     water.", "water flowed from the spout."], "gold": 1}

OpenAI published no score of GPT-2. Chance is 0.5.
"""

from __future__ import annotations

from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, shared_context


def _convert(fields: dict[str, Any]) -> Item:
    return shared_context(fields["query"], fields["choices"], fields["gold"])


TASK = MultipleChoice(
    "copa",
    ("copa.jsonl",),
    _convert,
    '{"query": "…, therefore", "choices": ["…", "…"], "gold": 0}',
    "likeliest continuation of the premise",
)
