"""Bias + GELU: the Triton kernel against the eager reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pygpt import ops
from tests.helpers.parity import (
    DEVICE,
    DTYPES,
    GPU_DTYPES,
    check_parity,
    far_apart,
    gpu,
    skip_below_gigabytes,
)

FORMS = ("tanh", "none")


def _check(x: Tensor, bias: Tensor | None, approximate: str) -> None:
    check_parity(
        lambda x, bias: ops.gelu(x, bias, approximate=approximate, impl="triton"),
        lambda x, bias: ops.gelu(x, bias, approximate=approximate, impl="eager"),
        [x, bias],
    )


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 9, 384), (1, 1, 1), (37, 100)])
def test_parity(shape: tuple[int, ...], dtype: torch.dtype, approximate: str) -> None:
    x, bias = torch.randn(shape, device=DEVICE), torch.randn(shape[-1:], device=DEVICE)
    if x.numel() == 1:
        # Quarters, whose sums fp16 holds: eager rounds x + bias to x's dtype, and of a single
        # element near GELU's minimum that may leave no digit of the gradient.
        x, bias = (x * 4).round() / 4, (bias * 4).round() / 4
    _check(x.to(dtype), bias, approximate)
    _check(x.to(dtype), None, approximate)


def test_parity_on_random_shapes() -> None:
    rows, width = (int(n) for n in torch.randint(1, 300, (2,)))
    _check(torch.randn(rows, width, device=DEVICE), torch.randn(width, device=DEVICE), "tanh")


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # exp → inf is meant
@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_magnitudes(dtype: torch.dtype, approximate: str) -> None:
    for x in (1e4, -1e4, 30.0, -30.0, 5.0, -5.0, 0.0, -0.0):  # alone: none hides behind another
        _check(torch.tensor([[x]], device=DEVICE).to(dtype), None, approximate)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(dtype: torch.dtype) -> None:
    buffer = torch.randn(20, 300, device=DEVICE).to(dtype)
    bias = torch.randn(200, device=DEVICE)[::2]
    _check(buffer[1:, 7:107], bias, "tanh")  # rows of a wider buffer, unaligned
    _check(buffer.t()[:100].contiguous().t(), bias, "tanh")  # last dimension not contiguous
    _check(buffer[:1, :100].expand(4, 5, 100), bias, "none")  # the same row again and again


@pytest.mark.parametrize("shape", [(0, 384), (2, 0, 16), (3, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    _check(torch.randn(shape, device=DEVICE), torch.randn(shape[-1:], device=DEVICE), "tanh")


@pytest.mark.skipif(DEVICE.type != "cpu", reason="reserves CPU memory; test_gpu_* covers the GPU")
def test_offsets_beyond_int32() -> None:
    x = far_apart(torch.randn(3, 40), 2**30)
    _check(x, torch.randn(40), "tanh")


def test_operator_registration() -> None:
    from pygpt.kernels.gelu import _gelu, _gelu_backward

    x = torch.randn(3, 5, 16, device=DEVICE).permute(1, 0, 2).requires_grad_()
    bias = torch.randn(16, device=DEVICE, requires_grad=True)
    torch.library.opcheck(_gelu, (x, bias, "tanh"))
    torch.library.opcheck(_gelu, (x, None, "none"))
    torch.library.opcheck(
        _gelu_backward, (torch.randn(5, 3, 16, device=DEVICE), x.detach(), bias.detach(), "tanh")
    )


@gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES)
@pytest.mark.parametrize("approximate", FORMS)
def test_gpu_parity(dtype: torch.dtype, approximate: str) -> None:
    for width in (3072, 6400):
        x = torch.randn(2, 1023, width, device=DEVICE).to(dtype)
        _check(x, torch.randn(width, device=DEVICE), approximate)


@gpu
def test_gpu_offsets_beyond_int32() -> None:
    skip_below_gigabytes(20)
    width = 65_536
    x = torch.randn(2**15 + 3, width, device=DEVICE, dtype=torch.bfloat16)
    bias = torch.randn(width, device=DEVICE)
    y = ops.gelu(x, bias, impl="triton")
    assert torch.equal(y[-3:], ops.gelu(x[-3:].clone(), bias, impl="triton"))
    x.requires_grad_()
    (dx,) = torch.autograd.grad(ops.gelu(x, bias, impl="triton"), x, y)
    tail = x[-3:].detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(ops.gelu(tail, bias, impl="triton"), tail, y[-3:].clone())
    assert torch.equal(dx[-3:], expected)
