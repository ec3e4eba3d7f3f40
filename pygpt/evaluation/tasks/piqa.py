r"""PIQA (Bisk et al. 2020): which of two ways reaches a goal in the physical world.

An example, of 1,838 in the validation set::

    {"query": "Question: dresser\n", "choices": ["replace drawer with bobby pin",
     "finish, woodgrain with  bobby pin"], "gold": 1}

OpenAI published no score of GPT-2. Chance is 0.5.
"""

from __future__ import annotations

from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, shared_context
from pygpt.evaluation.task_file import HubFile


def _convert(fields: dict[str, Any]) -> Item:
    if "goal" in fields:  # as on the Hub
        query = f"Question: {fields['goal']}\nAnswer:"
        return shared_context(query, [fields["sol1"], fields["sol2"]], fields["label"])
    query = f"{fields['query'].rstrip()}\nAnswer:"
    return shared_context(query, fields["choices"], fields["gold"])


TASK = MultipleChoice(
    "piqa",
    ("piqa.jsonl",),
    HubFile("baber/piqa", "default", "validation"),
    _convert,
    '{"query": "Question: …", "choices": ["…", "…"], "gold": 0}',
    'likeliest answer behind "Question: …\\nAnswer:" (lm-evaluation-harness\'s piqa)',
)
