"""GELU of x + bias, forward and backward, with the bias gradient in the backward's pass.

For z = x + bias, in the tanh form that GPT-2 was trained with and in the exact one::

    tanh:  y = ½·z·(1 + tanh u) = z·σ(2u),   u = √(2/π)·(z + 0.044715·z³)
           dy/dz = s + z·s·(1 - s)·2·du/dz,  s = σ(2u)
    none:  y = z·Φ(z),   dy/dz = Φ(z) + z·φ(z)

(Hendrycks and Gimpel 2016, section 2.) The logistic form of tanh has no cancellation for negative z
and its exponential overflows to the right limit, 0.

A program walks down a panel of columns; its sums for the bias gradient stay in registers, in fp32,
and are written once. One reduction adds the programs' sums: no atomics, equal bits for equal
inputs. Without a bias the same kernel runs without sums.

exp2 and not exp, which takes care of results below 2⁻¹²⁶ that are added to 1 here; log2(e) and the
constants of u are multiplied together beforehand.

Sizes: M rows, C columns.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pygpt.kernels import launch
from pygpt.kernels.common import as_rows, check_dtypes
from pygpt.kernels.registration import differentiable, fake, forbid_second_derivative, operator

# 2·du/dz = SLOPE + CUBIC_SLOPE·z², and -2u in base 2 = z·(EXPONENT + CUBIC_EXPONENT·z²).
SLOPE = tl.constexpr(2.0 * math.sqrt(2.0 / math.pi))
CUBIC_SLOPE = tl.constexpr(2.0 * math.sqrt(2.0 / math.pi) * 3.0 * 0.044715)
EXPONENT = tl.constexpr(-2.0 * math.sqrt(2.0 / math.pi) * math.log2(math.e))
CUBIC_EXPONENT = tl.constexpr(-2.0 * math.sqrt(2.0 / math.pi) * math.log2(math.e) * 0.044715)
SQRT_HALF = tl.constexpr(math.sqrt(0.5))
ONE_OVER_SQRT_2_PI = tl.constexpr(1.0 / math.sqrt(2.0 * math.pi))

# --- kernels --------------------------------------------------------------------------------------


@triton.jit
def _tile(n_rows, row_start, column_start, WIDTH, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = (row_start + tl.arange(0, ROWS)).to(tl.int64)
    columns = column_start + tl.arange(0, COLUMNS)
    return rows, columns, (rows < n_rows)[:, None] & (columns < WIDTH)[None, :]


@triton.jit(do_not_specialize=["n_rows"])
def _forward_kernel(
    x_ptr,  # (M, C), rows x_stride apart
    bias_ptr,  # (C,), unused without HAS_BIAS
    y_ptr,  # (M, C), written
    n_rows,  # M
    x_stride,  # elements
    WIDTH: tl.constexpr,  # C
    HAS_BIAS: tl.constexpr,
    TANH: tl.constexpr,  # the tanh form; otherwise erf
    ROWS: tl.constexpr,  # of a program's tile
    COLUMNS: tl.constexpr,
):
    panels = tl.cdiv(WIDTH, COLUMNS)
    row_start = tl.program_id(0) // panels * ROWS
    column_start = tl.program_id(0) % panels * COLUMNS
    rows, columns, mask = _tile(n_rows, row_start, column_start, WIDTH, ROWS, COLUMNS)
    z = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=mask, other=0.0)
    z = z.to(tl.float32)
    if HAS_BIAS:
        z += tl.load(bias_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)[None, :]
    if TANH:
        result = z / (1.0 + tl.exp2(z * (EXPONENT + CUBIC_EXPONENT * (z * z))))
    else:
        result = 0.5 * z * (1.0 + tl.erf(z * SQRT_HALF))
    pointers = y_ptr + rows[:, None] * WIDTH + columns[None, :]
    tl.store(pointers, result.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _backward_kernel(
    dy_ptr,  # (M, C), rows dy_stride apart
    x_ptr,  # (M, C), rows x_stride apart
    bias_ptr,  # (C,), unused without HAS_BIAS
    dx_ptr,  # (M, C), written
    partials_ptr,  # (P, C) fp32, written: sums over the rows of each group of programs
    n_rows,  # M
    dy_stride,  # elements
    x_stride,  # elements
    WIDTH: tl.constexpr,  # C
    HAS_BIAS: tl.constexpr,
    TANH: tl.constexpr,  # the tanh form; otherwise erf
    ROWS: tl.constexpr,  # of a program's tile
    COLUMNS: tl.constexpr,
):
    """Write dx (M, C) and, with a bias, partials (P, C): one row for each group of programs."""
    panels = tl.cdiv(WIDTH, COLUMNS)
    group = tl.program_id(0) // panels
    n_groups = tl.num_programs(0) // panels
    column_start = tl.program_id(0) % panels * COLUMNS
    columns = column_start + tl.arange(0, COLUMNS)
    if HAS_BIAS:
        shift = tl.load(bias_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    d_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(group, tl.cdiv(n_rows, ROWS), n_groups):
        rows, columns, mask = _tile(n_rows, tile * ROWS, column_start, WIDTH, ROWS, COLUMNS)
        z = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=mask, other=0.0)
        z = z.to(tl.float32)
        if HAS_BIAS:
            z += shift[None, :]
        if TANH:
            z2 = z * z
            s = 1.0 / (1.0 + tl.exp2(z * (EXPONENT + CUBIC_EXPONENT * z2)))
            slope = s + (s - s * s) * (z * (SLOPE + CUBIC_SLOPE * z2))
        else:
            density = tl.exp(-0.5 * z * z) * ONE_OVER_SQRT_2_PI
            slope = 0.5 * (1.0 + tl.erf(z * SQRT_HALF)) + z * density
        d_out = tl.load(dy_ptr + rows[:, None] * dy_stride + columns[None, :], mask=mask, other=0.0)
        dz = d_out.to(tl.float32) * slope
        if HAS_BIAS:
            d_bias += dz
        pointers = dx_ptr + rows[:, None] * WIDTH + columns[None, :]
        tl.store(pointers, dz.to(dx_ptr.dtype.element_ty), mask=mask)
    if HAS_BIAS:
        own = partials_ptr + group.to(tl.int64) * WIDTH
        tl.store(own + columns, tl.sum(d_bias, 0), mask=columns < WIDTH)


# --- launchers and registration -------------------------------------------------------------------


@operator("gelu")
def _gelu(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    rows = as_rows(x)
    n_rows, width = rows.shape
    tile = launch.find("gelu_forward", 0, x)
    with torch.cuda.device_of(x):
        _forward_kernel[(triton.cdiv(n_rows, tile.rows) * triton.cdiv(width, tile.columns),)](
            rows, rows if bias is None else bias.contiguous(), y, n_rows, rows.stride(0),
            WIDTH=width, HAS_BIAS=bias is not None, TANH=approximate == "tanh",
            ROWS=tile.rows, COLUMNS=tile.columns, **tile.options,
        )  # fmt: skip
    return y


@fake(_gelu)
def _(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    return x.new_empty(x.shape)


@operator("gelu_backward")
def _gelu_backward(
    dy: Tensor, x: Tensor, bias: Tensor | None, approximate: str
) -> tuple[Tensor, Tensor]:
    """(dx in x's dtype, dbias in fp32, which has no elements where there is no bias)."""
    dx, d_bias = _empty_gradients(x, bias)
    if dx.numel() == 0:
        return dx, d_bias.zero_()
    rows, d_rows = as_rows(x), as_rows(dy)
    n_rows, width = rows.shape
    tile = launch.find("gelu_backward", 0, x)
    panels = triton.cdiv(width, tile.columns)
    groups = max(1, min(tile.programs // panels, triton.cdiv(n_rows, tile.rows)))
    partials = d_bias.new_empty(groups, d_bias.numel())
    with torch.cuda.device_of(x):
        _backward_kernel[(groups * panels,)](
            d_rows, rows, rows if bias is None else bias.contiguous(), dx, partials,
            n_rows, d_rows.stride(0), rows.stride(0),
            WIDTH=width, HAS_BIAS=bias is not None, TANH=approximate == "tanh",
            ROWS=tile.rows, COLUMNS=tile.columns, **tile.options,
        )  # fmt: skip
    return dx, d_bias if bias is None else partials.sum(0)


@fake(_gelu_backward)
def _(dy: Tensor, x: Tensor, bias: Tensor | None, approximate: str) -> tuple[Tensor, Tensor]:
    return _empty_gradients(x, bias)


def _empty_gradients(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    d_bias = x.new_empty(0 if bias is None else x.size(-1), dtype=torch.float32)
    return x.new_empty(x.shape), d_bias


def _setup_context(ctx, inputs, output) -> None:
    x, bias, ctx.approximate = inputs
    ctx.save_for_backward(x, bias)


def _backward(ctx, dy):
    x, bias = ctx.saved_tensors
    dx, d_bias = _gelu_backward(dy, x, bias, ctx.approximate)
    return dx, None if bias is None else d_bias.to(bias.dtype), None


differentiable(_gelu, _backward, _setup_context)
forbid_second_derivative(_gelu_backward, "gelu")

# --- public function ------------------------------------------------------------------------------


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "tanh") -> Tensor:
    """GELU of x + bias; see `pygpt.ops.gelu`, the contract. The sum is taken in fp32.

    Args:
        x: (…, C) in fp32, fp16 or bf16.
        bias: (C,), in any of those dtypes, or None.
        approximate: "tanh" or "none" (by the error function).

    Returns:
        (…, C), in x's dtype.

    Raises:
        ValueError: another dtype.
    """
    check_dtypes("gelu", x=x, bias=bias)
    y: Tensor = _gelu(x, bias, approximate)
    return y
