"""A model as an ONNX file, which onnxruntime and many devices' own runtimes run."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pygpt.model import GPT


class _Logits(nn.Module):
    """ids (B, T) → logits (B, T, V), without the loss."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model.head(self.model.hidden(input_ids))
        return logits


def write(path: Path, model: GPT) -> None:
    """Write a model by torch's exporter: input_ids (batch, sequence) → logits, in fp32.

    There is no key/value cache in the file: a runtime computes every position again for each id.

    Args:
        path: the file; weights beyond 2 GB go to a second one beside it.
        model: in eval mode, with the eager implementations: kernels are no ONNX operators.
    """
    block_size = model.config.block_size
    example = torch.zeros(2, min(8, block_size), dtype=torch.int64)
    shapes = {
        "input_ids": {
            0: torch.export.Dim("batch"),
            1: torch.export.Dim("sequence", max=block_size),
        }
    }
    with _quiet():
        torch.onnx.export(
            _Logits(model).eval(),
            (example,),
            path,
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=4 * model.config.n_params() > 2**31 - 2**20,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress and its advice about its own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
