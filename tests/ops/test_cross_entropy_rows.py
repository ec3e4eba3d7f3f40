"""The row kernels of cross-entropy, native and Triton, called directly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pygpt.ops import native
from tests.helpers.cross_entropy import cases, impls
from tests.helpers.parity import DEVICE, far_apart, gpu


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


def _row_kernel(impl: str) -> Callable[..., None]:
    if impl == "native":
        return native.cross_entropy_rows
    from pygpt.kernels.cross_entropy import cross_entropy_rows

    return cross_entropy_rows


@impls
@pytest.mark.parametrize("bad", [-1, 30, 2**40])
def test_target_out_of_range(impl: str, bad: int) -> None:
    """NaN for this row, and no memory accessed outside it."""
    targets = torch.randint(30, (6,), device=DEVICE)
    targets[4] = bad
    logits = torch.randn(6, 30, device=DEVICE)
    loss, lse = torch.empty(2, 6, device=DEVICE)
    _row_kernel(impl)(
        logits, targets, loss, lse, None,
        ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
    )  # fmt: skip
    assert loss.isnan().nonzero().tolist() == [[4]]
    assert logits.isnan().all(dim=1).nonzero().tolist() == [[4]]
    assert logits.isnan().any(dim=1).nonzero().tolist() == [[4]]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # inf - inf is meant
@cases
def test_nan_and_infinity(impl: str, dtype: torch.dtype) -> None:
    """Row 0: a NaN; row 1: an inf; row 2: -inf, a whole block of them and more; row 3: plain."""
    logits = torch.randn(4, 5000, device=DEVICE)
    logits[0, 4321] = float("nan")
    logits[1, 17] = float("inf")
    logits[2, :4500] = -float("inf")
    tile = logits.to(dtype)
    truth = tile.double().requires_grad_()
    targets = torch.full((4,), 4600, device=DEVICE)
    exact = torch.nn.functional.cross_entropy(truth, targets, reduction="none")
    exact.sum().backward()
    loss, lse = torch.empty(2, 4, device=DEVICE)
    _row_kernel(impl)(
        tile, targets, loss, lse, None,
        ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
    )  # fmt: skip
    assert loss.isnan().tolist() == exact.isnan().tolist() == [True, True, False, False]
    assert tile[:2].isnan().all()
    assert truth.grad is not None
    assert (tile[2, :4500] == 0).all()
    torch.testing.assert_close(loss[2:].double(), exact[2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tile[2:], truth.grad[2:].to(dtype), atol=1e-5, rtol=1e-2)


@impls
def test_row_weights(impl: str) -> None:
    """Row kernels scale each row's gradient, and only that."""
    logits = torch.randn(5, 321, device=DEVICE)
    weighted, plain = logits.clone(), logits.clone()
    targets = torch.randint(321, (5,), device=DEVICE)
    weights = torch.tensor([1.0, 0.0, -2.0, 0.5, 3.0], device=DEVICE)
    losses = torch.empty(2, 5, device=DEVICE)
    for tile, row_weight, loss in ((weighted, weights, losses[0]), (plain, None, losses[1])):
        _row_kernel(impl)(
            tile, targets, loss, torch.empty(5, device=DEVICE), row_weight,
            ignore_index=-100, z_loss=0.1, label_smoothing=0.1, gradient=True,
        )  # fmt: skip
    assert torch.equal(losses[0], losses[1])
    torch.testing.assert_close(weighted, plain * weights[:, None], atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(
    DEVICE.type != "cpu", reason="reserves CPU memory; test_rows_past_* runs on a GPU"
)
@impls
def test_rows_beyond_int32(impl: str) -> None:
    """Rows 2³⁰ elements apart."""
    near = torch.randn(3, 100)
    far = far_apart(near, 2**30)
    targets = torch.randint(100, (3,))
    results = []
    for tile in (far, near):
        loss, lse = torch.empty(2, 3)
        _row_kernel(impl)(
            tile, targets, loss, lse, None,
            ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
        )  # fmt: skip
        results.append((tile, loss, lse))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@gpu
@pytest.mark.slow
def test_rows_past_two_to_the_31() -> None:
    vocab, rows = 50_304, 42_700
    logits = torch.randn(1, vocab, device=DEVICE).bfloat16().repeat(rows, 1)
    targets = torch.full((rows,), 5, device=DEVICE)
    loss, lse = torch.empty(2, rows, device=DEVICE)
    _row_kernel("triton")(
        logits, targets, loss, lse, None,
        ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
    )  # fmt: skip
    assert (loss == loss[0]).all()
    assert torch.equal(logits[-1], logits[0])
