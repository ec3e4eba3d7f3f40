"""An exponential moving average of the weights, beside them (Polyak and Juditsky 1992).

The average of the last 1 / (1 - decay) steps or so has less of the noise of single steps: it often
evaluates better than the weights, as if the learning rate had been lowered. It changes no step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pygpt.hub import huggingface
from pygpt.model import GPT
from pygpt.runs.checkpoint import is_sliced
from pygpt.runs.run import AVERAGE


class WeightAverage:
    """The average of a model's weights, in fp32, where the weights are.

    Args:
        weights: whose average.
        decay: of the average, in a step.

    Attributes:
        model: has the average as its weights.
    """

    def __init__(self, weights: GPT, decay: float) -> None:
        self._decay = decay
        with torch.device("meta"):  # no memory for initial weights, which are replaced below
            self.model = GPT(weights.config, weights.impl)
        state = {name: tensor.detach().clone() for name, tensor in weights.state_dict().items()}
        self.model.load_state_dict(state, assign=True)
        self.model.requires_grad_(False)

    @torch.no_grad()
    def update(self, weights: GPT, step: int) -> None:
        """Count in the weights of a step, from 1. The first steps' decay is lower: initial weights
        are soon forgotten.
        """
        decay = min(self._decay, step / (step + 9))
        averages, current = _local(self.model), _local(weights)
        torch._foreach_lerp_(averages, current, 1 - decay)

    @torch.no_grad()
    def restore(self, checkpoint: Path, weights: GPT) -> None:
        """Go on with a checkpoint's average, or where it has none from `weights`.

        Raises:
            InputError: it is damaged.
        """
        directory = checkpoint / AVERAGE
        if not directory.is_dir():
            for average, current in zip(_local(self.model), _local(weights), strict=True):
                average.copy_(current)
        elif is_sliced(weights):
            from pygpt.runs import sharded  # takes half a second to import

            sharded.load_weights(self.model, directory)
        else:
            huggingface.load_into(self.model, directory)


def _local(model: GPT) -> list[Tensor]:
    """The parameters, or the slices of them that this rank has."""
    parameters: list[Any] = list(model.parameters())
    return [p.to_local() if hasattr(p, "to_local") else p.detach() for p in parameters]
