"""COPA (Roemmele et al. 2011): which of two sentences is the cause or the effect.

An example, of 100 in the validation set::

    {"query": "The man turned on the faucet, therefore", "choices": ["the toilet filled with
     water.", "water flowed from the spout."], "gold": 1}

OpenAI published no score of GPT-2. Chance is 0.5.
"""

from __future__ import annotations

from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, shared_context
from pygpt.evaluation.task_file import HubFile


def _convert(fields: dict[str, Any]) -> Item:
    if "premise" in fields:  # as on the Hub
        word = {"cause": "because", "effect": "therefore"}[fields["question"]]
        query = f"{fields['premise'].strip()[:-1]} {word}"
        choices = [text[0].lower() + text[1:] for text in (fields["choice1"], fields["choice2"])]
        return shared_context(query, choices, fields["label"])
    return shared_context(fields["query"], fields["choices"], fields["gold"])


TASK = MultipleChoice(
    "copa",
    ("copa.jsonl",),
    HubFile("aps/super_glue", "copa", "validation"),
    _convert,
    '{"query": "…, therefore", "choices": ["…", "…"], "gold": 0}',
    "likeliest continuation of the premise",
)
