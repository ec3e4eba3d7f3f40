"""Loss over a split of one dataset or of a mixture: each part by itself, and the weighted total."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pygpt.data.mixture import Mixture, Split
from pygpt.evaluation.loss import Evaluation, evaluate
from pygpt.model import GPT


@dataclasses.dataclass(frozen=True)
class MixtureEvaluation(Evaluation):
    """The total of a mixture: the mean of its parts' losses, weighted by their shares."""

    parts: Mapping[str, Evaluation]

    def __str__(self) -> str:
        """The total first, then each part by its name."""
        parts = (f"{name}: {evaluation}" for name, evaluation in self.parts.items())
        return "; ".join([f"{super().__str__()} (weighted total)", *parts])


def evaluate_split(
    model: GPT,
    split: Split,
    *,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Evaluation:
    """See `evaluate`; of a mixture each part reads an equal share of `max_tokens`.

    Returns:
        A `MixtureEvaluation` for a mixture.
    """
    if not isinstance(split, Mixture):
        return evaluate(model, split, max_tokens=max_tokens, progress=progress, **options)
    n_parts = len(split.datasets)
    parts = {}
    for at, (name, dataset) in enumerate(zip(split.names, split.datasets, strict=True)):

        def show(done: int, total: int, at: int = at) -> None:
            if progress:
                progress(at * total + done, n_parts * total)

        share = None if max_tokens is None else max(1, max_tokens // n_parts)
        parts[name] = evaluate(model, dataset, max_tokens=share, progress=show, **options)
    tokens = sum(part.tokens for part in parts.values())
    weighted = list(zip(map(float, split.shares), parts.values(), strict=True))
    return MixtureEvaluation(
        nats=tokens * sum(share * part.loss for share, part in weighted),
        tokens=tokens,
        bytes=round(tokens * sum(share * part.bytes / part.tokens for share, part in weighted)),
        parts=parts,
    )
