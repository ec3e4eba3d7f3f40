"""ARC-Easy (Clark et al. 2018): science questions of primary and middle school.

An example, of 2,376 in the test set::

    {"query": "Question: Which piece of safety equipment is used to keep mold spores from entering
     the respiratory system?", "choices": ["safety goggles", "breathing mask", "rubber gloves",
     "lead apron"], "gold": 1}

OpenAI published no score of GPT-2. Chance is 0.25.
"""

from __future__ import annotations

from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, shared_context
from pygpt.evaluation.task_file import HubFile


def _convert(fields: dict[str, Any]) -> Item:
    if "answerKey" in fields:  # as on the Hub
        query, choices = f"Question: {fields['question']}\nAnswer:", fields["choices"]
        gold = list(choices["label"]).index(fields["answerKey"])
        return shared_context(query, choices["text"], gold)
    query = f"{fields['query'].rstrip()}\nAnswer:"
    return shared_context(query, fields["choices"], fields["gold"])


TASK = MultipleChoice(
    "arc_easy",
    ("arc_easy.jsonl",),
    HubFile("allenai/ai2_arc", "ARC-Easy", "test"),
    _convert,
    '{"query": "Question: …", "choices": ["…", …], "gold": 1}',
    'likeliest answer behind "Question: …\\nAnswer:" (lm-evaluation-harness\'s arc_easy)',
)
