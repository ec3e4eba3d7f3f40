"""Kernel against reference; the tolerance comes from the reference's own error.

A kernel passes when its largest error is at most twice that of the eager reference in the same
dtype, plus 1e-5 (gradients: three times). Both errors are measured against the reference in fp64 on
the same, already rounded, inputs and upstream gradients. The reference's error counts as at least
half a unit in the last place of the largest value, since storing that value alone may cost as much.

The same is required of errors relative to the largest value of their row, so that a large row can't
hide a wrong small one. These vary more from draw to draw and get twice the tolerance. Inputs whose
tolerance would let zeros pass are an error of the test.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# bf16 arithmetic is wrong in Triton's interpreter: tests/kernels/test_bfloat16.py patches it.
DTYPES = (torch.float32, torch.float16)
GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


MAP_NORESERVE = 0x4000  # Linux's; the mmap module names it from Python 3.13 on


def gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs a GPU."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for a CUDA device")
    marked: Callable[..., None] = pytest.mark.gpu(skip(test))
    return marked


def skip_below_gigabytes(needed: int) -> None:
    """Skip the test that calls this on a GPU with less free memory."""
    if torch.cuda.mem_get_info()[0] < needed * 1e9:
        pytest.skip(f"waits for a GPU with {needed} GB of free memory")


Op = Callable[..., Any]

SLACK = 1e-5
"""On top of any allowance."""
NOTHING = 1e-3
"""What may be allowed where the truth is 0."""
SMALL = 1e-3
"""Rows below this share of the largest value count as if they had it: they may be all noise."""


def check_parity(kernel: Op, eager: Op, inputs: Sequence[Tensor | None]) -> None:
    """Compare outputs and the gradients of all inputs; and `kernel` with itself, bit for bit.

    Args:
        kernel: the implementation under test.
        eager: the reference; run in the inputs' dtypes, and in fp64 for the truth.
        inputs: operands in order, None where an optional one is absent.
    """
    with torch.no_grad():
        outputs = _as_tuple(eager(*inputs))
    upstream = [torch.randn_like(y, memory_format=torch.contiguous_format) for y in outputs]
    wide = [None if x is None else x.double() for x in inputs]

    got = _run(kernel, inputs, upstream)
    again = _run(kernel, inputs, upstream)
    baseline = _run(eager, inputs, upstream)
    truth = _run(eager, wide, [dy.double() for dy in upstream])

    for i, (result, repeated, reference, exact) in enumerate(
        zip(got, again, baseline, truth, strict=True)
    ):
        is_output = i < len(outputs)
        name = f"output {i}" if is_output else f"gradient {i - len(outputs)}"
        assert result.dtype == reference.dtype, (
            f"{name} is {result.dtype}, eager's is {reference.dtype}"
        )
        assert result.shape == reference.shape, (
            f"{name} is {result.shape}, eager's is {reference.shape}"
        )
        assert torch.equal(result, repeated), f"{name}: the same call twice gave other bits"
        assert_close_as_eager(result, reference, exact, 2.0 if is_output else 3.0, name)


def assert_close_as_eager(
    result: Tensor, reference: Tensor, exact: Tensor, factor: float, name: str = "result"
) -> None:
    """Fail unless max|result - exact| ≤ factor·(reference's error) + 1e-5, and so relative to rows.

    NaN fails, and so does a reference with an error so large that the test proves nothing.
    """
    if exact.numel() == 0:
        return
    width = exact.size(-1) if exact.dim() else 1
    rows = exact.reshape(-1, width)
    error, reference_errors, largest = (
        values.abs().amax(1).nan_to_num(nan=math.inf, posinf=math.inf)
        for values in (
            result.double().reshape(rows.shape) - rows,
            reference.double().reshape(rows.shape) - rows,
            rows,
        )
    )
    half_ulp = torch.finfo(reference.dtype).eps / 2
    allowed = factor * torch.maximum(reference_errors.max(), half_ulp * largest.max()) + SLACK
    assert allowed < max(largest.max().item(), NOTHING), (
        f"{name}: eager itself is so far off that {allowed:.3e} would be allowed, and the largest "
        f"exact value is {largest.max():.3e}; the test needs other inputs"
    )
    assert error.max() <= allowed, f"{name}: error {error.max():.3e}, allowed {allowed:.3e}"
    scale = largest.clamp(min=max(SMALL * largest.max().item(), 1e-30))
    relative = (reference_errors / scale).max().clamp(min=half_ulp)
    of_row = 2 * factor * relative * scale + SLACK
    row = int((error / of_row).argmax())
    assert error[row] <= of_row[row], (
        f"{name}, row {row}: error {error[row]:.3e}, allowed {of_row[row]:.3e}"
    )


def _run(op: Op, inputs: Sequence[Tensor | None], upstream: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of `op`, then the gradients of its inputs."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
    outputs = _as_tuple(op(*leaves))
    wanted = [x for x in leaves if x is not None]
    gradients = torch.autograd.grad(outputs, wanted, list(upstream))
    return [*(y.detach() for y in outputs), *gradients]


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def far_apart(rows: Tensor, stride: int) -> Tensor:
    """A copy of `rows` (n, C) whose rows lie `stride` elements apart; for offsets past 2³¹.

    The memory is reserved, not filled: only the pages that are touched exist. There is as much of
    it before the first row as behind, so that an offset that wraps to a negative one reads zeros
    and the test fails, where it would crash.
    """
    n, width = rows.shape
    half = n * stride
    size = 2 * half * rows.element_size()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    flat = torch.frombuffer(memory, dtype=rows.dtype)
    view = flat.as_strided((n, width), (stride, 1), half)
    view.copy_(rows)
    return view
