"""Dropout in the Triton attention: the same mask in every kernel, the same as in PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.kernels import attention_tiles
from pygpt.kernels.attention import attention
from pygpt.model import GPT
from pygpt.ops.attention import merge_heads, split_heads
from pygpt.ops.dispatch import Implementations
from tests.helpers.bf16_interpreter import exact_bfloat16
from tests.helpers.parity import DEVICE, DTYPES, GPU_DTYPES, check_parity, gpu
from tests.helpers.philox import kept_weights, philox4x32


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


def _seed() -> Tensor:
    return torch.randint(2**62, (1,), device=DEVICE)


def reference(qkv: Tensor, n_head: int, dropout: float, kept: Tensor) -> Tensor:
    """softmax(q·kᵀ/√D), its dropped weights 0 and the others divided by 1 - dropout, times v."""
    q, k, v = (split_heads(part, n_head) for part in qkv.chunk(3, dim=2))
    T, D = q.shape[2:]
    future = torch.ones(T, T, dtype=torch.bool, device=qkv.device).triu(1)
    scores = q @ k.mT / math.sqrt(D)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=3)
    return merge_heads((weights * kept / (1 - dropout)) @ v)


def _check(qkv: Tensor, n_head: int, dropout: float) -> None:
    B, T, _ = qkv.shape
    seed = _seed()
    kept = kept_weights(int(seed), (B, n_head, T, T), dropout).to(qkv.device)
    check_parity(
        lambda qkv: attention(qkv, n_head, dropout, seed),
        lambda qkv: reference(qkv, n_head, dropout, kept),
        [qkv],
    )


# --- the mask -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "rounds", "expected"),
    [
        (0, 0, 10, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**32 - 1, 2**32 - 1, 10, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (0, 0, 7, [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
        (2**32 - 1, 2**32 - 1, 7, [0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662]),
    ],
)
def test_the_reference_is_philox(counter: int, key: int, rounds: int, expected: list[int]) -> None:
    """Known answers of Random123, the authors' library."""
    words = philox4x32((torch.full((1,), counter),) * 4, (key, key), rounds)
    assert [int(word) for word in words] == expected


@triton.jit
def _mask_kernel(
    mask_ptr, seed_ptr, head, q_start, k_start,
    Q_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    kept = attention_tiles.kept_weights(
        tl.load(seed_ptr), head, q_start, k_start, Q_BLOCK, K_BLOCK, DROPOUT
    )
    places = tl.arange(0, Q_BLOCK)[:, None] * K_BLOCK + tl.arange(0, K_BLOCK)[None, :]
    tl.store(mask_ptr + places, kept)


@pytest.mark.parametrize("tile", [(16, 16), (32, 16), (16, 64)])
def test_mask_depends_on_the_place_alone(tile: tuple[int, int]) -> None:
    seed, dropout = _seed(), 0.3
    expected = kept_weights(int(seed), (2, 3, 128, 128), dropout).view(6, 128, 128)
    for head, q_start, k_start in ((0, 0, 0), (4, 64, 64), (5, 96, 64)):
        mask = torch.empty(tile, dtype=torch.bool, device=DEVICE)
        _mask_kernel[(1,)](mask, seed, head, q_start, k_start, *tile, round(dropout * 2**32))
        part = expected[head, q_start : q_start + tile[0], k_start : k_start + tile[1]]
        assert torch.equal(mask.cpu(), part)


def test_share_of_dropped_weights() -> None:
    """Six standard deviations of a binomial distribution; neighbours and heads don't agree more."""
    kept = kept_weights(int(_seed()), (2, 2, 256, 256), 0.2).double()
    bound = 6 * math.sqrt(0.2 * 0.8 / kept.numel())
    assert abs(kept.mean() - 0.8) < bound
    for other in (kept.roll(1, 3), kept.roll(1, 2), kept.flip(0), kept.flip(1)):
        both = (kept * other).mean()
        assert abs(both - 0.64) < 6 * math.sqrt(0.64 * 0.36 / kept.numel()) * 2


# --- the kernels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 70, 2, 16), (2, 33, 1, 48), (1, 1, 1, 64)])
def test_parity(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    B, T, n_head, D = shape
    _check(torch.randn(B, T, 3 * n_head * D, device=DEVICE).to(dtype), n_head, 0.2)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="for machines without a GPU")
def test_parity_in_bfloat16() -> None:
    with exact_bfloat16():
        _check(torch.randn(1, 50, 3 * 32).to(torch.bfloat16), 1, 0.3)


def test_without_dropout_a_seed_changes_nothing() -> None:
    qkv = torch.randn(1, 40, 96, device=DEVICE)
    assert torch.equal(attention(qkv, 2, 0.0, _seed()), attention(qkv, 2))


def test_dropout_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="dropout=0.1 needs a seed"):
        attention(torch.randn(1, 4, 96, device=DEVICE), 2, 0.1)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_impossible_dropout_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        ops.attention(torch.randn(1, 4, 96, device=DEVICE), 2, dropout=dropout)


def test_operator_registration() -> None:
    from pygpt.kernels.attention import _attention, _attention_backward

    qkv, seed = torch.randn(1, 7, 48, device=DEVICE, requires_grad=True), _seed()
    torch.library.opcheck(_attention, (qkv, 1, 0.2, seed))
    y, lse = _attention(qkv.detach(), 1, 0.2, seed)
    arguments = (torch.randn_like(y), qkv.detach(), y, lse, 1, 0.2, seed)
    torch.library.opcheck(_attention_backward, arguments)


# --- in the model ---------------------------------------------------------------------------------


def test_model_takes_the_kernel_with_dropout() -> None:
    config = GPTConfig(block_size=16, vocab_size=64, n_layer=1, n_head=2, n_embd=32, dropout=0.2)
    chosen = Implementations(attention="triton").resolve(DEVICE, config)
    assert chosen.attention == "triton"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_follow_from_the_seed(checkpointing: bool) -> None:
    config = GPTConfig(block_size=20, vocab_size=64, n_layer=2, n_head=1, n_embd=16, dropout=0.2)
    model = GPT(config, "attention=triton", checkpoint_activations=checkpointing).to(DEVICE)
    x, y = torch.randint(64, (2, 1, 20), device=DEVICE)

    def step(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        model.zero_grad()
        loss = model.loss(x, y)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    first, again, other = step(1), step(1), step(2)
    assert all(map(torch.equal, first, again))
    assert first[0] != other[0]
    model.checkpoint_activations = not checkpointing
    assert all(map(torch.equal, first, step(1)))


def test_compiled_step_has_one_graph_and_follows_from_the_seed() -> None:
    config = GPTConfig(block_size=16, vocab_size=64, n_layer=1, n_head=1, n_embd=16, dropout=0.2)
    model = GPT(config, "attention=triton").to(DEVICE)
    x, y = torch.randint(64, (2, 1, 16), device=DEVICE)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    def step() -> list[Tensor]:
        torch.manual_seed(3)
        loss = compiled(x, y)
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    assert all(map(torch.equal, step(), step()))


@gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES)
def test_gpu_parity(dtype: torch.dtype) -> None:
    for B, T, n_head, D in ((4, 256, 6, 64), (2, 255, 2, 32), (1, 130, 1, 128)):
        _check(torch.randn(B, T, 3 * n_head * D, device=DEVICE).to(dtype), n_head, 0.2)
