"""Rows of a table by id, whose gradient is the same bits every time under torch.compile too.

Autograd's gradient of `F.embedding` sorts the ids and sums what belongs to one of them in that
order. Inductor takes it apart into additions in memory, whose order on a GPU, and on a CPU of
several threads, differs from time to time. Here it is one opaque operator, which Inductor calls.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt.kernels.registration import differentiable, fake, operator


def embedding(idx: Tensor, weight: Tensor) -> Tensor:
    """The rows of `weight` that the ids name.

    Args:
        idx: (…), int64 ids in [0, V).
        weight: (V, C).

    Returns:
        (…, C), in weight's dtype.
    """
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        rows: Tensor = torch.ops.pygpt.embedding(idx, weight)
        return rows
    return F.embedding(idx, weight)


@operator("embedding")
def _embedding(idx: Tensor, weight: Tensor) -> Tensor:
    return F.embedding(idx, weight)


@fake(_embedding)
def _(idx: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(*idx.shape, weight.size(1))


@operator("embedding_backward")
def _embedding_backward(gradient: Tensor, idx: Tensor, n_rows: int) -> Tensor:
    """The table's gradient (V, C), of the dtype of `gradient` (…, C)."""
    d_weight: Tensor = torch.ops.aten.embedding_dense_backward(gradient, idx, n_rows, -1, False)
    return d_weight


@fake(_embedding_backward)
def _(gradient: Tensor, idx: Tensor, n_rows: int) -> Tensor:
    return gradient.new_empty(n_rows, gradient.size(-1))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    idx, weight = inputs
    ctx.n_rows = weight.size(0)
    ctx.save_for_backward(idx)


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
    (idx,) = ctx.saved_tensors
    return None, torch.ops.pygpt.embedding_backward(gradient.contiguous(), idx, ctx.n_rows)


differentiable(_embedding, _backward, _setup_context)
