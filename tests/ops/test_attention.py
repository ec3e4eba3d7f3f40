"""Causal attention and cached decoding: the Triton kernels against the eager references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pygpt import ops
from pygpt.kernels import attention
from tests.helpers.parity import (
    DEVICE,
    DTYPES,
    GPU_DTYPES,
    assert_close_as_eager,
    check_parity,
    far_apart,
    gpu,
    skip_below_gigabytes,
)

# (B, T, n_head, D): T beside, on and beyond block borders, T = 1, one head, padded head sizes.
SHAPES = [
    (2, 70, 2, 16),
    (1, 129, 2, 32),
    (1, 64, 1, 64),
    (2, 1, 3, 64),
    (1, 33, 2, 48),
    (1, 70, 1, 128),
    (1, 5, 1, 1),
]


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


def _check(qkv: Tensor, n_head: int) -> None:
    check_parity(
        lambda qkv: ops.attention(qkv, n_head, impl="triton"),
        lambda qkv: ops.attention(qkv, n_head, impl="eager"),
        [qkv],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    B, T, n_head, D = shape
    _check(torch.randn(B, T, 3 * n_head * D, device=DEVICE).to(dtype), n_head)


def test_parity_on_random_shapes() -> None:
    B, n_head = (int(n) for n in torch.randint(1, 4, (2,)))
    T, D = (int(n) for n in torch.randint(1, 100, (2,)))
    _check(torch.randn(B, T, 3 * n_head * D, device=DEVICE), n_head)


def _large(magnitude: float) -> Tensor:
    """Queries and keys of ±magnitude: the keys of the largest score share all the weight."""
    qkv = torch.randn(1, 70, 96, device=DEVICE).sign() * magnitude
    qkv[..., 64:] = torch.randn(1, 70, 32, device=DEVICE)
    return qkv


def test_large_magnitudes() -> None:
    """Scores up to 1e8·√D: nothing may overflow into NaN."""
    qkv = _large(1e4)
    got, reference, exact = (
        ops.attention(x, 1, impl=impl)
        for x, impl in ((qkv, "triton"), (qkv, "eager"), (qkv.double(), "eager"))
    )
    assert_close_as_eager(got, reference, exact, 2.0)


def test_gradients_at_large_magnitudes() -> None:
    """Scores up to 100·√D. The backward subtracts the log-sum-exp, which is as large: with scores
    far beyond, fp32 keeps no digit of the difference, in eager either."""
    _check(_large(10.0), 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(dtype: torch.dtype) -> None:
    buffer = torch.randn(3, 40, 200, device=DEVICE).to(dtype)
    _check(buffer[1:, 3:, 5:101], 2)  # a window of a larger buffer, unaligned
    _check(buffer[:, :4, :96].transpose(0, 1), 2)  # batch and time permuted
    _check(buffer[:1].transpose(1, 2)[:, :96].contiguous().transpose(1, 2), 2)  # last one not unit


def test_expanded_upstream_gradient() -> None:
    """A sum's gradient is one number seen through strides of zero."""
    qkv = torch.randn(2, 20, 96, device=DEVICE, requires_grad=True)
    got, reference = (
        torch.autograd.grad(ops.attention(qkv, 2, impl=impl).sum(), qkv)[0]
        for impl in ("triton", "eager")
    )
    wide = qkv.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(ops.attention(wide, 2, impl="eager").sum(), wide)
    assert_close_as_eager(got, reference, exact, 3.0)


@pytest.mark.parametrize("shape", [(0, 5, 96), (2, 0, 96)])
def test_empty(shape: tuple[int, int, int]) -> None:
    qkv = torch.randn(shape, device=DEVICE, requires_grad=True)
    y = ops.attention(qkv, 2, impl="triton")
    (gradient,) = torch.autograd.grad(y.sum(), qkv)
    assert y.shape == (*shape[:2], 32)
    assert gradient.shape == shape


@pytest.mark.skipif(DEVICE.type != "cpu", reason="reserves CPU memory; test_gpu_* covers the GPU")
@pytest.mark.parametrize("lead", [(1, 3), (3, 1)])
def test_offsets_beyond_int32(lead: tuple[int, int]) -> None:
    """Positions, then sequences, 2³⁰ elements apart."""
    _check(far_apart(torch.randn(3, 96), 2**30).view(*lead, 96), 2)


def test_causality() -> None:
    """Positions before a change don't see it, bit for bit."""
    qkv = torch.randn(1, 70, 96, device=DEVICE)
    changed = qkv.clone()
    changed[:, 40:] = torch.randn(1, 30, 96, device=DEVICE)
    before, after = (ops.attention(x, 2, impl="triton") for x in (qkv, changed))
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.equal(before[:, 40:], after[:, 40:])


def test_products_of_fp32_take_tf32_where_torch_may(monkeypatch: pytest.MonkeyPatch) -> None:
    from pygpt.kernels.attention import _constants

    qkv = torch.randn(1, 2, 96)
    found = []
    for setting in ("highest", "high"):
        # Not set: set back, it leaves oneDNN's own setting changed for the tests that follow.
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda setting=setting: setting)
        found += [_constants(x, 32, 0.0)["PRECISION"] for x in (qkv, qkv.half())]
    assert found == ["ieee", "ieee", "tf32", "ieee"]


def test_head_too_large_is_refused() -> None:
    qkv = torch.ones(1, 2, 480, device=DEVICE)
    with pytest.raises(ValueError, match="head size up to 128 and this is 160; take impl='auto'"):
        ops.attention(qkv, 1, impl="triton")
    with pytest.raises(ValueError, match="head size up to 128, not 160; take impl='eager'"):
        attention.attention(qkv, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 1, 2, 16), (1, 65, 3, 64), (2, 130, 1, 48)])
def test_decode_parity(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    B, S, n_head, D = shape
    q = torch.randn(B, 1, 3 * n_head * D, device=DEVICE).to(dtype)[..., : n_head * D]
    cache = torch.randn(2, B, S + 9, n_head * D, device=DEVICE).to(dtype)
    k, v = cache[:, :, :S]  # views of a longer buffer
    got, reference = (ops.decode_attention(q, k, v, n_head, impl=i) for i in ("triton", "eager"))
    exact = ops.decode_attention(q.double(), k.double(), v.double(), n_head, impl="eager")
    assert got.dtype == dtype
    assert_close_as_eager(got, reference, exact, 2.0)


@pytest.mark.parametrize("impl", ["triton", "eager"])
def test_decode_of_rows_of_unequal_length(impl: str) -> None:
    q, k, v = torch.randn(3, 3, 70, 64, device=DEVICE)
    lengths = torch.tensor([70, 1, 33], device=DEVICE)
    got = ops.decode_attention(q[:, :1], k, v, 2, lengths, impl=impl)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = ops.decode_attention(q[one, :1], k[one, :length], v[one, :length], 2, impl=impl)
        torch.testing.assert_close(got[one], alone, rtol=1e-5, atol=1e-5)


def test_decode_agrees_with_the_last_row_of_attention() -> None:
    qkv = torch.randn(2, 37, 3 * 64, device=DEVICE)
    q, k, v = qkv.chunk(3, dim=2)
    last = ops.attention(qkv, 2, impl="triton")[:, -1:]
    torch.testing.assert_close(
        ops.decode_attention(q[:, -1:], k, v, 2, impl="triton"), last, rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif(DEVICE.type != "cpu", reason="reserves CPU memory; test_gpu_* covers the GPU")
def test_decode_offsets_beyond_int32() -> None:
    q, rows = torch.randn(1, 1, 32), torch.randn(3, 64)
    k, v = far_apart(rows, 2**30)[None].chunk(2, dim=2)
    got = ops.decode_attention(q, k, v, 2, impl="triton")
    near_k, near_v = rows[None].chunk(2, dim=2)
    assert torch.equal(got, ops.decode_attention(q, near_k, near_v, 2, impl="triton"))


def test_decode_without_keys_is_refused() -> None:
    empty = torch.ones(1, 0, 32, device=DEVICE)
    with pytest.raises(ValueError, match="holds no positions"):
        ops.decode_attention(torch.ones(1, 1, 32, device=DEVICE), empty, empty, 2, impl="triton")


def test_operator_registration() -> None:
    from pygpt.kernels.attention import _attention, _attention_backward
    from pygpt.kernels.decode_attention import _decode_attention

    qkv = torch.randn(7, 2, 96, device=DEVICE).transpose(0, 1).requires_grad_()
    torch.library.opcheck(_attention, (qkv, 2))
    y, lse = _attention(qkv.detach(), 2)
    torch.library.opcheck(_attention_backward, (torch.randn_like(y), qkv.detach(), y, lse, 2))
    torch.library.opcheck(_decode_attention, (y[:, :1], y, y, 2))


@gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES)
@pytest.mark.parametrize("D", [16, 32, 64, 80, 128])
def test_gpu_parity(D: int, dtype: torch.dtype) -> None:
    for B, T, n_head in ((4, 1024, 6), (2, 1023, 2), (1, 257, 5), (3, 1, 2)):
        _check(torch.randn(B, T, 3 * n_head * D, device=DEVICE).to(dtype), n_head)


@gpu
def test_gpu_offsets_beyond_int32() -> None:
    skip_below_gigabytes(20)
    B, T, n_head, D = 940, 1024, 12, 64  # B·T·3·C = 2.2e9 elements
    qkv = torch.randn(B, T, 3 * n_head * D, device=DEVICE, dtype=torch.bfloat16)
    qkv.requires_grad_()
    y = ops.attention(qkv, n_head, impl="triton")
    (gradient,) = torch.autograd.grad(y, qkv, y.detach())
    last = qkv[-1:].detach().clone().requires_grad_()
    y_last = ops.attention(last, n_head, impl="triton")
    (expected,) = torch.autograd.grad(y_last, last, y_last.detach())
    assert torch.equal(y[-1:], y_last)
    assert torch.equal(gradient[-1:], expected)
