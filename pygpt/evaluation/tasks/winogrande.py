"""WinoGrande (Sakaguchi et al. 2020): which of two names a sentence goes on about.

An example, of 1,267 in the validation set::

    {"context_options": ["Sarah was a much better surgeon than Maria so Sarah", "Sarah was a much
     better surgeon than Maria so Maria"], "continuation": "always got the easier cases.",
     "gold": 1}

OpenAI published no score of GPT-2. Chance is 0.5.
"""

from __future__ import annotations

from typing import Any

from pygpt.evaluation.multiple_choice import Item, MultipleChoice, whole_number
from pygpt.evaluation.task_file import HubFile

_OPTIONS = ("option1", "option2")


def _convert(fields: dict[str, Any]) -> Item:
    if "sentence" in fields:  # as on the Hub
        before, _, after = fields["sentence"].partition("_")
        choices = tuple((before + fields[name], f" {after.strip()}") for name in _OPTIONS)
        return Item(choices, whole_number(fields["answer"]) - 1)
    contexts, continuation = fields["context_options"], fields["continuation"]
    if isinstance(contexts, str) or not isinstance(continuation, str):
        raise TypeError("context_options is not a list, or continuation is not a text")
    return Item(
        tuple((text, f" {continuation}") for text in contexts), whole_number(fields["gold"])
    )


TASK = MultipleChoice(
    "winogrande",
    ("winogrande.jsonl",),
    HubFile("allenai/winogrande", "winogrande_xl", "validation"),
    _convert,
    '{"context_options": ["…", "…"], "continuation": "…", "gold": 0}',
    "context under which the rest is likelier (lm-evaluation-harness's winogrande)",
    normalised=False,
)
