r"""PIQA (Bisk et al. 2020): which of two ways reaches a goal in the physical world.

An example, of 1,838 in the validation set::

    {"query": "Question: dresser\n", "choices": ["replace drawer with bobby pin",
     "finish, woodgrain with  bobby pin"], "gold": 1}

OpenAI published no score of GPT-2. Chance is 0.5.
"""

from __future__ import annotations

from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, shared_context


def _convert(fields: dict[str, Any]) -> Item:
    query = f"{fields['query'].rstrip()}\nAnswer:"
    return shared_context(query, fields["choices"], fields["gold"])


TASK = MultipleChoice(
    "piqa",
    ("piqa.jsonl",),
    _convert,
    '{"query": "Question: …", "choices": ["…", "…"], "gold": 0}',
    'likeliest answer behind "Question: …\\nAnswer:" (lm-evaluation-harness\'s piqa)',
)
