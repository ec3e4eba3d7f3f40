"""Causal attention from the packed projection beside each of SDPA's back ends.

Run: ``python bench/bench_attention.py``, or
``python -m pytest --benchmark-enable bench/bench_attention.py``.

Every implementation starts from the packed (B, T, 3·C) projection and returns (B, T, C), and its
backward the packed gradient, as a GPT needs them; "sdpa flash, split" is the exception: queries,
keys and values are separate tensors already, which shows what the packing costs SDPA. "eager" holds
the (T, T) weights: softmax(q·kᵀ)·v, product by product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lib import common
from lib.interleaved import Call
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pygpt import ops
from pygpt.ops.attention import merge_heads, split_heads

# (B, T, n_head, D): GPT-2 124 M, the FineWeb preset's heads, the OpenWebText preset, GPT-2 XL.
SHAPES = ((16, 1024, 12, 64), (16, 1024, 12, 32), (32, 512, 6, 64), (4, 1024, 25, 64))
DTYPE = torch.bfloat16
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
SPLIT = "sdpa flash, split"
FLEX = "FlexAttention"
IMPLS = ("triton", "eager", "torch.compile", *(f"sdpa {name}" for name in BACKENDS), SPLIT, FLEX)
PRODUCTS = {"forward": 1.0, "backward": 2.5, "both": 3.5}
"""Matrix products of a direction, as a multiple of the forward's."""


def _implementation(impl: str, n_head: int) -> Callable[..., Tensor]:
    def sdpa(qkv: Tensor) -> Tensor:
        return ops.attention(qkv, n_head, impl="eager")

    def eager(qkv: Tensor) -> Tensor:
        B, T, packed = qkv.shape
        D = packed // (3 * n_head)
        q, k, v = qkv.view(B, T, 3, n_head, D).permute(2, 0, 3, 1, 4)
        future = torch.ones(T, T, dtype=torch.bool, device=qkv.device).triu(1)
        scores = q @ k.transpose(2, 3) * D**-0.5
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=3)
        y: Tensor = weights @ v
        return y.transpose(1, 2).flatten(2)

    def triton(qkv: Tensor) -> Tensor:
        return ops.attention(qkv, n_head, impl="triton")

    def with_backend(qkv: Tensor) -> Tensor:
        with sdpa_kernel(BACKENDS[impl.removeprefix("sdpa ")]):
            return sdpa(qkv)

    def split(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    if impl == FLEX:
        return _flex(n_head)
    if impl == "torch.compile":
        return common.compiled(sdpa, ("attention", n_head))
    special: dict[str, Callable[..., Tensor]] = {"triton": triton, "eager": eager, SPLIT: split}
    return special.get(impl, with_backend)


def _flex(n_head: int) -> Callable[..., Tensor]:
    """FlexAttention with the causal mask, which it skips whole blocks by."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend = common.compiled(flex_attention, FLEX)

    @functools.cache
    def causal(T: int) -> Any:
        return create_block_mask(lambda b, h, q, k: q >= k, None, None, T, T, common.DEVICE)

    def flex(qkv: Tensor) -> Tensor:
        q, k, v = (split_heads(part, n_head) for part in qkv.chunk(3, dim=2))
        y: Tensor = attend(q, k, v, block_mask=causal(qkv.size(1)))
        return merge_heads(y)

    return flex


def _make(impl: str, direction: str, shape: tuple[int, int, int, int]) -> Call:
    B, T, n_head, D = shape
    if impl == SPLIT:
        inputs = list(torch.randn(3, B, n_head, T, D, device=common.DEVICE, dtype=DTYPE))
    else:
        inputs = [torch.randn(B, T, 3 * n_head * D, device=common.DEVICE, dtype=DTYPE)]
    return common.training_call(_implementation(impl, n_head), inputs, direction)


def cases() -> Iterator[common.Case]:
    """Every shape, direction and implementation."""
    for B, T, n_head, D in SHAPES:
        for direction in common.DIRECTIONS:
            for impl in IMPLS:
                yield common.Case(
                    op="attention",
                    direction=direction,
                    impl=impl,
                    shape=f"{B}×{T}, {n_head} heads of {D}",
                    make=functools.partial(_make, impl, direction, (B, T, n_head, D)),
                    # Two products of 2·T²·D each, halved by the mask.
                    flops=int(PRODUCTS[direction] * 2 * B * n_head * T * T * D),
                )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_attention(benchmark: Any, case: common.Case) -> None:
    """One case under pytest-benchmark."""
    common.run_in_pytest(benchmark, case)


if __name__ == "__main__":
    common.run("attention", __doc__, cases)
