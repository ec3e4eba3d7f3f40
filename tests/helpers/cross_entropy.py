"""Inputs, cases and comparison for the tests of `linear_cross_entropy` and its row kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pygpt import ops
from pygpt.ops import chunked_cross_entropy, dispatch
from tests.helpers.parity import DEVICE, assert_close_as_eager, check_parity

IMPLS = ("triton",) if DEVICE.type == "cuda" else ("native", "triton")
# Triton's interpreter computes bf16 wrongly, and the native kernel has no fp16.
CASES = [
    (impl, dtype)
    for impl in IMPLS
    for dtype in dispatch.DTYPES[impl]
    if not (impl == "triton" and DEVICE.type == "cpu" and dtype == torch.bfloat16)
]
cases = pytest.mark.parametrize(("impl", "dtype"), CASES)
impls = pytest.mark.parametrize("impl", IMPLS)


def set_chunk(monkeypatch: pytest.MonkeyPatch, tokens: int, vocab: int, dtype: torch.dtype) -> None:
    """Set the memory budget so that a chunk has that many tokens."""
    monkeypatch.setitem(
        chunked_cross_entropy.LOGITS_BYTES, DEVICE.type, tokens * vocab * dtype.itemsize
    )


def inputs(
    tokens: int, width: int, vocab: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, and targets of which some are ignored; the logits' deviation is about 2."""
    x = torch.randn(tokens, width, device=DEVICE).to(dtype)
    weight = (torch.randn(vocab, width, device=DEVICE) * 2 / width**0.5).to(dtype)
    targets = torch.randint(vocab, (tokens,), device=DEVICE)
    ignored = torch.rand(tokens, device=DEVICE) < 0.2
    ignored[:1] = False
    return x, weight, targets.masked_fill(ignored, -100)


def check(impl: str, x: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> None:
    """All results and gradients as close to fp64 as eager's, and the same bits twice."""

    def loss(which: str) -> Callable[..., Any]:
        return lambda x, weight: ops.linear_cross_entropy(x, weight, targets, impl=which, **options)

    check_parity(loss(impl), loss("eager"), [x, weight])

    def per_token(which: str, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return ops.linear_cross_entropy(
                x, weight, targets, impl=which, return_per_token=True, **options
            )[1:]

    got = per_token(impl, x, weight)
    reference = per_token("eager", x, weight)
    truth = per_token("eager", x.double(), weight.double())
    for name, mine, eagers, exact in zip(("losses", "lse"), got, reference, truth, strict=True):
        assert mine.shape == targets.shape
        assert_close_as_eager(mine, eagers, exact, 2.0, name)


def run(impl: str, x: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> list[Tensor]:
    """The loss and the gradients of x and weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = ops.linear_cross_entropy(x, weight, targets, impl=impl, **options)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), (x, weight))]
