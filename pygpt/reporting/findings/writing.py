"""What the model writes: a finding for each completion that was asked for."""

from __future__ import annotations

from collections.abc import Iterator

from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.language import Message, msg
from pygpt.reporting.writing import SEED, SHORTEST_COPY, TEMPERATURE, TOP_K, Completion, Writing
from pygpt.utils import cli

SOURCE = (
    f"pygpt.inference.engine: temperature {TEMPERATURE}, top-k {TOP_K}, seed {SEED}; "
    "distinct-n: Li et al. 2016, arXiv 1510.03055"
)


def findings(subject: Subject) -> Iterator[Finding]:
    """Completions, then the models that wrote none."""
    writing = subject.writing
    if writing is None:
        return
    for one in writing.completions:
        yield Finding(
            "completion",
            "note",
            msg("{model} continues “{prompt}”: “{written}”",
                model=one.model, prompt=shown(one.prompt), written=shown(one.text)),
            _figures(one, writing),
            source=SOURCE,
            command=cli.command("sample", one.model, "--prompt", one.prompt),
        )  # fmt: skip
    for model, reason in writing.refused:
        yield Finding(
            "completion",
            "unknown",
            msg("No completion by {model}: {reason}", model=model, reason=reason),
        )


def _figures(one: Completion, writing: Writing) -> Message | None:
    if one.mean_logprob is None:
        return None
    return msg(
        "{n} tokens, mean log-probability {mean:.2f} nats; distinct-1, 2, 3: {first:.2f}, "
        "{second:.2f}, {third:.2f}; longest loop: {loop} tokens. {copied}",
        n=len(one.ids),
        mean=one.mean_logprob,
        first=one.distinct(1),
        second=one.distinct(2),
        third=one.distinct(3),
        loop=one.loop,
        copied=_copied(one, writing),
    )


def _copied(one: Completion, writing: Writing) -> Message:
    searched = {"searched": writing.searched, "all": writing.n_train}
    if one.copied is None:
        return msg("Not searched for in the training text: {reason}", reason=writing.not_searched)
    if not one.copied_tokens:
        return msg("No {n} tokens in a row are in the training text ({searched} of {all} tokens "
                   "searched).", n=SHORTEST_COPY, **searched)  # fmt: skip
    return msg("{n} tokens in a row are in the training text ({searched} of {all} tokens "
               "searched): “{part}”.",
               n=one.copied_tokens, part=shown(one.copied), **searched)  # fmt: skip


def shown(text: str) -> str:
    """On one line, without control characters, which a terminal would obey."""
    text = text.replace("\n", "↵")
    return "".join(character if character.isprintable() else "�" for character in text)
