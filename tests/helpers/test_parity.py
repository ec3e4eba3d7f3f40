"""The comparison of kernel and reference: what must fail it."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.parity import assert_close_as_eager


def test_a_wrong_small_row_is_not_hidden_by_a_large_one() -> None:
    exact = torch.tensor([[1e4, -2e4], [0.5, 1.0]], dtype=torch.float64)
    reference = exact.half()
    assert_close_as_eager(reference, reference, exact, 2.0)
    wrong = reference.clone()
    wrong[1] = 0.0  # less than half a unit in the last place of 2e4
    with pytest.raises(AssertionError, match=r"gradient, row 1: error 1\.000e\+00"):
        assert_close_as_eager(wrong, reference, exact, 2.0, "gradient")


def test_a_reference_with_too_large_an_error_is_refused() -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with pytest.raises(AssertionError, match="the test needs other inputs"):
        assert_close_as_eager(exact.float(), torch.tensor([1.0, 50.0]), exact, 3.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_fail(bad: float) -> None:
    exact = torch.ones(3, dtype=torch.float64)
    result = exact.float()
    result[1] = bad
    with pytest.raises(AssertionError, match="error inf"):
        assert_close_as_eager(result, exact.float(), exact, 2.0)
    with pytest.raises(AssertionError):
        assert_close_as_eager(exact.float(), result, exact, 2.0)
