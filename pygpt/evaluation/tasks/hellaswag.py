"""HellaSwag (Zellers et al. 2019): which of four endings continues a description.

An example, of 10,042 in the validation set::

    {"activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.",
     "ctx_b": "he", "endings": ["is using wrap to wrap a pair of skis.", "is ripping level tiles
     off.", "is holding a rubik's cube.", "starts pulling up roofing on a roof."], "label": 3}

Published for GPT-2, normalised accuracy: 0.294 gpt2, 0.375 gpt2-medium, 0.432 gpt2-large, 0.489
gpt2-xl. Chance is 0.25.
"""

from __future__ import annotations

import re
from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, shared_context
from pygpt.evaluation.task_file import HubFile


def _clean(text: str) -> str:
    """Remove the brackets that WikiHow's part of the data has, as lm-evaluation-harness does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _convert(fields: dict[str, Any]) -> Item:
    if "query" in fields:
        return shared_context(fields["query"], fields["choices"], fields["gold"])
    context = f"{fields['ctx_a']} {fields['ctx_b'].capitalize()}"
    query = _clean(f"{fields['activity_label']}: {context}")
    return shared_context(query, [_clean(text) for text in fields["endings"]], fields["label"])


TASK = MultipleChoice(
    "hellaswag",
    ("hellaswag.jsonl", "hellaswag_val.jsonl"),
    HubFile("Rowan/hellaswag", "default", "validation"),
    _convert,
    '{"activity_label": "…", "ctx_a": "…", "ctx_b": "…", "endings": ["…", …], "label": 3}',
    "likeliest ending; normalised by characters (lm-evaluation-harness's hellaswag)",
)
