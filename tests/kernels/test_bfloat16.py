"""Every kernel in bf16, and attention in TF32, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from pygpt import ops
from tests.helpers.bf16_interpreter import (
    BFloat16ArithmeticError,
    exact_bfloat16,
    to_bfloat16,
    to_float32,
    to_tf32,
)
from tests.helpers.parity import DEVICE, assert_close_as_eager, check_parity

pytestmark = pytest.mark.skipif(
    DEVICE.type != "cpu", reason="for machines without a GPU; test_gpu_* runs bf16 on one"
)
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def _interpreter(seed: int) -> Iterator[None]:
    torch.manual_seed(seed)
    with exact_bfloat16():
        yield


# --- the interpreter itself -----------------------------------------------------------------------


def test_casts_are_those_of_torch() -> None:
    x = torch.randn(1000) * torch.logspace(-30, 30, 1000)
    bits = x.to(BF16).view(torch.int16).numpy().view("uint16")
    assert (to_bfloat16(x.numpy()) == bits).all()
    assert torch.equal(torch.from_numpy(to_float32(bits)), x.to(BF16).float())


def test_tf32_keeps_ten_bits() -> None:
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, -1 - 2**-11, 1 + 2**-12, float("inf")])
    got = torch.from_numpy(to_tf32(x.numpy())).tolist()
    assert got == [1.0, 1 + 2**-10, 1 + 2**-10, -1 - 2**-10, 1.0, float("inf")]


@triton.jit
def _double_kernel(x_ptr, y_ptr, UPCAST: tl.constexpr):
    offsets = tl.arange(0, 16)
    x = tl.load(x_ptr + offsets)
    if UPCAST:
        x = x.to(tl.float32)
    tl.store(y_ptr + offsets, (x + x).to(tl.bfloat16))


def test_a_forgotten_upcast_fails() -> None:
    x = torch.randn(16, dtype=BF16)
    y = torch.empty_like(x)
    _double_kernel[(1,)](x, y, UPCAST=True)
    assert torch.equal(y, x + x)
    with pytest.raises((BFloat16ArithmeticError, triton.runtime.errors.InterpreterError)):
        _double_kernel[(1,)](x, y, UPCAST=False)


# --- the kernels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "n_head", "size"), [(37, 2, 32), (70, 1, 64), (20, 2, 20)])
def test_attention(T: int, n_head: int, size: int) -> None:
    check_parity(
        lambda qkv: ops.attention(qkv, n_head, impl="triton"),
        lambda qkv: ops.attention(qkv, n_head, impl="eager"),
        [torch.randn(2, T, 3 * n_head * size).to(BF16)],
    )


def test_attention_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    # TF32 rounds to 2⁻¹¹, as fp16 does: fp16's error is the measure.
    qkv = torch.randn(2, 50, 3 * 64).half().float()
    exact = ops.attention(qkv.double(), 2, impl="eager")
    fp16 = ops.attention(qkv.half(), 2, impl="eager")
    full = ops.attention(qkv, 2, impl="triton")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    tf32 = ops.attention(qkv, 2, impl="triton")
    assert_close_as_eager(tf32, fp16, exact, 2.0)
    assert (tf32 - exact).abs().max() > 10 * (full - exact).abs().max()  # it did round


def test_decode_attention() -> None:
    q, (k, v) = torch.randn(2, 1, 64), torch.randn(2, 2, 33, 64)
    q, k, v = q.to(BF16), k.to(BF16), v.to(BF16)
    got, eager = (ops.decode_attention(q, k, v, 2, impl=impl) for impl in ("triton", "eager"))
    exact = ops.decode_attention(q.double(), k.double(), v.double(), 2, impl="eager")
    assert_close_as_eager(got, eager, exact, 2.0)


@pytest.mark.parametrize("residual_dtype", [BF16, torch.float32])
def test_layer_norm(residual_dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 90, 100)
    weight, bias = torch.randn(2, 100)
    check_parity(
        lambda *inputs: ops.add_layer_norm(*inputs, impl="triton"),
        lambda *inputs: ops.add_layer_norm(*inputs, impl="eager"),
        [x.to(BF16), residual.to(residual_dtype), weight, bias],
    )
    check_parity(
        lambda *inputs: ops.layer_norm(*inputs, impl="triton"),
        lambda *inputs: ops.layer_norm(*inputs, impl="eager"),
        [x.to(BF16), weight.to(BF16), None],
    )


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu(approximate: str) -> None:
    check_parity(
        lambda *inputs: ops.gelu(*inputs, approximate=approximate, impl="triton"),
        lambda *inputs: ops.gelu(*inputs, approximate=approximate, impl="eager"),
        [torch.randn(37, 100).to(BF16), torch.randn(100).to(BF16)],
    )


def test_cross_entropy_rows() -> None:
    from pygpt.kernels.cross_entropy import cross_entropy_rows

    logits = (torch.randn(9, 1003) * 3).to(BF16)
    targets = torch.randint(0, 1003, (9,))
    leaf = logits.double().requires_grad_()
    exact = torch.nn.functional.cross_entropy(leaf, targets, reduction="none")
    (gradient,) = torch.autograd.grad(exact.sum(), leaf)
    loss, lse = torch.empty(2, 9)
    cross_entropy_rows(
        logits, targets, loss, lse, None,
        ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
    )  # fmt: skip
    assert_close_as_eager(loss, exact.detach().float(), exact.detach(), 2.0)
    assert_close_as_eager(logits, gradient.to(BF16), gradient, 2.0)
