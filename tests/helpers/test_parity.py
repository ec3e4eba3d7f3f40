"""The judge of the kernels: what it must not let pass."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.parity import assert_close_as_eager


def test_a_wrong_small_row_is_not_hidden_by_a_large_one() -> None:
    exact = torch.tensor([[1e4, -2e4], [0.5, 1.0]], dtype=torch.float64)
    twin = exact.half()
    assert_close_as_eager(twin, twin, exact, 2.0)
    wrong = twin.clone()
    wrong[1] = 0.0  # less than half a unit in the last place of 2e4
    with pytest.raises(AssertionError, match=r"gradient, row 1: error 1\.000e\+00"):
        assert_close_as_eager(wrong, twin, exact, 2.0, "gradient")


def test_a_twin_that_proves_nothing_is_an_error_of_the_test() -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with pytest.raises(AssertionError, match="the test needs other inputs"):
        assert_close_as_eager(exact.float(), torch.tensor([1.0, 50.0]), exact, 3.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_fails(bad: float) -> None:
    exact = torch.ones(3, dtype=torch.float64)
    result = exact.float()
    result[1] = bad
    with pytest.raises(AssertionError, match="error inf"):
        assert_close_as_eager(result, exact.float(), exact, 2.0)
    with pytest.raises(AssertionError):
        assert_close_as_eager(exact.float(), result, exact, 2.0)
