"""How the next id is chosen from a row of logits.

torch is imported where a number is drawn: a command checks settings without it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from pygpt.utils.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next id is chosen. The steps are applied in the order of the fields below.

    Raises:
        InputError: a value out of its range.
    """

    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest id (greedy)."""
    top_k: int | None = None
    """Keep the k likeliest ids (Fan et al. 2018)."""
    top_p: float | None = None
    """Keep the likeliest ids that together reach this probability (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Keep ids whose probability is at least this fraction of the largest (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Divides positive logits of ids in the prompt or the text, and multiplies negative ones,
    before the temperature (Keskar et al. 2019, section 4.1); 1 changes nothing."""

    def __post_init__(self) -> None:
        # Outside this range, fp32 logits divided by it overflow or become equal.
        if self.temperature != 0 and not 1e-4 <= self.temperature <= 1e4:
            raise InputError(
                f"temperature must be 0 (greedy) or from 0.0001 to 10000, got {self.temperature}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1, got {self.top_k}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name} must be in (0, 1], got {value}")
        if not 0.01 <= self.repetition_penalty <= 100:
            raise InputError(
                f"repetition_penalty must be from 0.01 to 100, got {self.repetition_penalty}"
            )

    def choose(
        self, logits: Tensor, generator: torch.Generator | None = None, seen: Tensor | None = None
    ) -> int:
        """The next id.

        Args:
            logits: (V,), fp32 or fp64; -inf for ids that can't be chosen.
            generator: of the one random number that a choice takes; on the CPU.
            seen: (n,), the distinct ids so far, for the repetition penalty.
        """
        if self.repetition_penalty != 1 and seen is not None:
            logits = self._penalized(logits, seen)
        if self.temperature == 0:
            return int(logits.argmax())
        logits, ids = self._candidates(logits / self.temperature)
        probs = logits.softmax(dim=-1)
        if self.top_p is not None:
            # Drop an id if those before it already reach top_p; the first always stays.
            probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= self.top_p, 0.0)
        if self.min_p is not None:
            probs = probs.masked_fill(probs < self.min_p * probs.max(), 0.0)
        return _draw(probs, ids, generator)

    def _penalized(self, logits: Tensor, seen: Tensor) -> Tensor:
        penalty = self.repetition_penalty
        known = logits[seen]
        return logits.index_put((seen,), (known / penalty).where(known > 0, known * penalty))

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits left by top_k and their ids (None: all); descending if top_k or top_p is set."""
        if self.top_k is not None and self.top_k < len(logits):
            return logits.topk(self.top_k)
        if self.top_p is not None:
            return _sorted(logits)
        return logits, None


def _sorted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits in descending order, and their ids."""
    import torch

    if logits.device.type != "cpu":
        return logits.sort(descending=True)
    # NumPy's sort has vector instructions: a fifth of the time of PyTorch's, which for 8 texts and
    # 50,257 ids is longer than the model's step.
    ids = torch.from_numpy((-logits.detach()).numpy().argsort())
    return logits[ids], ids


def _draw(probs: Tensor, ids: Tensor | None, generator: torch.Generator | None) -> int:
    """Sample an id by inverting the cumulative distribution; `probs` need not sum to 1."""
    import torch

    cumulative = probs.double().cumsum(dim=-1)
    place = torch.rand((), dtype=torch.float64, generator=generator).to(probs.device)
    # Strictly below the total: an id of probability 0 at the end is never drawn.
    target = (place * cumulative[-1]).clamp(max=math.nextafter(float(cumulative[-1]), 0.0))
    index = torch.searchsorted(cumulative, target, right=True)
    return int(index if ids is None else ids[index])
