"""LayerNorm with and without the residual add: the Triton kernel against the eager reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pygpt import ops
from pygpt.kernels import layer_norm
from tests.helpers.parity import (
    DEVICE,
    DTYPES,
    GPU_DTYPES,
    check_parity,
    far_apart,
    gpu,
    skip_below_gigabytes,
)


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


def _parameters(width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    weight, bias = torch.randn(2, width, device=DEVICE).to(dtype)
    return weight, bias


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_parity(
        lambda *inputs: ops.layer_norm(*inputs, impl="triton"),
        lambda *inputs: ops.layer_norm(*inputs, impl="eager"),
        [x, weight, bias],
    )


def _check_add(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_parity(
        lambda *inputs: ops.add_layer_norm(*inputs, impl="triton"),
        lambda *inputs: ops.add_layer_norm(*inputs, impl="eager"),
        [x, residual, weight, bias],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 7, 384), (1, 1), (5, 1000), (130, 24)])
def test_parity(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, device=DEVICE).to(dtype)
    weight, bias = _parameters(shape[-1])
    _check(x, weight, bias)
    _check(x, weight.to(dtype), None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 7, 384), (5, 1000), (130, 24)])
def test_parity_with_residual(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, *shape, device=DEVICE)
    weight, bias = _parameters(shape[-1])
    _check_add(x.to(dtype), residual.to(dtype), weight, bias)
    _check_add(x.to(dtype), residual, weight, None)  # the stream stays in fp32


def test_parity_on_random_shapes() -> None:
    rows, width = (int(n) for n in torch.randint(1, 300, (2,)))
    x, residual = torch.randn(2, rows, width, device=DEVICE)
    _check_add(x, residual, *_parameters(width))


def test_more_rows_than_programs_and_width_beyond_a_tile() -> None:
    _check(torch.randn(2100, 20, device=DEVICE), *_parameters(20))
    _check(torch.randn(3, 5000, device=DEVICE), *_parameters(5000))


@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_magnitudes_and_offsets(scale: float) -> None:
    # Many rows: the largest error of few is that of one row's mean, where eager may be lucky.
    x = torch.randn(200, 96, device=DEVICE) * scale
    _check(x, *_parameters(96))
    # A mean far from zero: a variance taken as a difference of large sums would be wrong here.
    _check(x + 100.0 * scale, *_parameters(96))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(dtype: torch.dtype) -> None:
    buffer = torch.randn(20, 300, device=DEVICE).to(dtype)
    residual = torch.randn(100, 19, device=DEVICE).t()  # last dimension not contiguous
    weight, bias = torch.randn(200, 2, device=DEVICE)[::2].t()
    _check_add(buffer[1:, 7:107], residual, weight, bias)
    _check(buffer[:1, :100].expand(4, 5, 100), weight, bias)
    _check_add(buffer[:5, :100], buffer[:5, :100], weight, None)  # one tensor as both operands


@pytest.mark.parametrize("shape", [(0, 384), (2, 0, 16)])
def test_empty(shape: tuple[int, ...]) -> None:
    x, residual = torch.randn(2, *shape, device=DEVICE)
    _check_add(x, residual, *_parameters(shape[-1]))


def test_only_one_of_the_two_outputs_used() -> None:
    for used in (0, 1):
        check_parity(
            lambda *inputs, used=used: ops.add_layer_norm(*inputs, impl="triton")[used],
            lambda *inputs, used=used: (
                ops.add_layer_norm(*inputs, impl="eager")[used] + 0 * inputs[2].sum()
            ),
            [*torch.randn(2, 4, 32, device=DEVICE), torch.randn(32, device=DEVICE)],
        )


@pytest.mark.skipif(DEVICE.type != "cpu", reason="reserves CPU memory; test_gpu_* covers the GPU")
def test_offsets_beyond_int32() -> None:
    x, residual = (far_apart(rows, 2**30) for rows in torch.randn(2, 3, 40))
    _check_add(x, residual, *_parameters(40))


def test_too_wide_is_refused() -> None:
    operands = (torch.ones(1, 16385, device=DEVICE), *_parameters(16385))
    with pytest.raises(ValueError, match="up to 16384 and this is 16385; take impl='auto'"):
        ops.layer_norm(*operands, impl="triton")
    with pytest.raises(ValueError, match="up to 16384, not 16385; take impl='eager'"):
        layer_norm.layer_norm(*operands)


def test_operator_registration() -> None:
    from pygpt.kernels.layer_norm import _add_layer_norm, _layer_norm, _layer_norm_backward

    x = torch.randn(3, 5, 16, device=DEVICE).permute(1, 0, 2).requires_grad_()
    weight, bias = (p.requires_grad_() for p in _parameters(16))
    torch.library.opcheck(_layer_norm, (x, weight, bias, 1e-5))
    torch.library.opcheck(_add_layer_norm, (x.half(), x, weight, None, 1e-5))
    stats = torch.rand(15, device=DEVICE)
    dy = torch.randn(5, 3, 16, device=DEVICE)
    torch.library.opcheck(
        _layer_norm_backward,
        (dy.half(), None, x.detach(), weight.detach(), stats, stats, True),
    )


@gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES)
@pytest.mark.parametrize("width", [768, 1600, 16384])
def test_gpu_parity(width: int, dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 2, 1023, width, device=DEVICE)
    weight, bias = _parameters(width)
    _check(x.to(dtype), weight, bias)
    _check_add(x.to(dtype), residual.to(dtype), weight, bias)
    _check_add(x.to(dtype), residual, weight, None)


@gpu
def test_gpu_offsets_beyond_int32() -> None:
    skip_below_gigabytes(20)
    width = 16384
    x = torch.randn(2**17 + 3, width, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    weight, bias = _parameters(width)
    y = ops.layer_norm(x, weight, bias, impl="triton")
    (dx,) = torch.autograd.grad(y, x, y.detach())
    tail = x[-3:].detach().clone().requires_grad_()
    y_tail = ops.layer_norm(tail, weight, bias, impl="triton")
    (expected,) = torch.autograd.grad(y_tail, tail, y_tail.detach())
    assert torch.equal(y[-3:], y_tail)
    assert torch.equal(dx[-3:], expected)
