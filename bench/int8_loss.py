"""What int8 weights cost: a run's loss on its val split with rounded weights, less that without.

Run: ``python bench/int8_loss.py RUN`` (``--help``). The weights are those of
``generate(..., quantize="int8")`` and ``dtype="bfloat16"``; the arithmetic is fp32 for all.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from pygpt.data import BatchSampler, TokenDataset
from pygpt.model import GPT
from pygpt.ops.decode_step import PackedMatrix
from pygpt.runs.models import load


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures the loss with rounded weights."""

    run: Annotated[str, tyro.conf.Positional]
    """A run, a checkpoint or a directory of Hugging Face's layout."""
    data: Path
    """The dataset whose val split is scored."""
    batches: int = 16
    """Batches of 16 contexts, drawn at random."""


def rounded(model: GPT, dtype: str) -> GPT:
    """The model with all matrices but the positions rounded to `dtype`."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) or module is model.wte:
                assert isinstance(module.weight, torch.Tensor)
                module.weight.copy_(PackedMatrix.pack(module.weight, dtype).unpack())
    return model


@torch.no_grad()
def main(options: Options) -> None:
    """Print the losses, in nats a token."""
    model, _ = load(options.run)
    sampler = BatchSampler(TokenDataset(options.data, split="val"), 16, model.config.block_size)
    models = {dtype: rounded(model, dtype) for dtype in ("float32", "bfloat16", "int8")}
    losses = {
        dtype: torch.stack([each.loss(*sampler.batch(k)) for k in range(options.batches)])
        for dtype, each in models.items()
    }
    for dtype, loss in losses.items():
        difference = loss - losses["float32"]
        error = difference.std() / options.batches**0.5
        print(f"{dtype:9} {loss.mean():.5f}  {difference.mean():+.5f} ± {error:.5f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
