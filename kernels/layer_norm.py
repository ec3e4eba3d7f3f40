"""Layer normalisation, with and without the residual add in front, forward and backward.

For one row x of width C, with x̂ = (x - mean)·rstd and rstd = (var + eps)^-½::

    y  = x̂ ∘ weight + bias
    dx = rstd·(g - mean(g) - x̂·mean(g ∘ x̂)),   g = dy ∘ weight
    dweight = Σ_rows dy ∘ x̂                     dbias = Σ_rows dy

(Ba, Kiros and Hinton 2016, equation 4.) A program holds several whole rows, so that memory is kept
busy at GPT-2's widths, and both moments are taken over values in registers, in fp32: the variance
is that of the centred row, not a difference of large sums. The width is padded to a power of two;
padding counts in neither moment.

dweight and dbias: a fixed number of programs divide the rows among them; each adds up its own in
fp32, writes one row of partial sums, and one reduction adds those. No atomics, so equal inputs give
equal bits.

Sizes: M rows, C = width.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pygpt.kernels import launch
from pygpt.kernels.common import as_rows, check_dtypes
from pygpt.kernels.registration import differentiable, fake, forbid_second_derivative, operator

# --- kernels --------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n_rows"])
def _forward_kernel(
    x_ptr,  # (M, C), rows x_stride apart
    residual_ptr,  # (M, C), rows residual_stride apart; unused without HAS_RESIDUAL
    weight_ptr,  # (C,)
    bias_ptr,  # (C,), unused without HAS_BIAS
    normed_ptr,  # (M, C), written
    summed_ptr,  # (M, C), written where HAS_RESIDUAL
    mean_ptr,  # (M,) fp32, written
    rstd_ptr,  # (M,) fp32, written
    n_rows,  # M
    x_stride,  # elements
    residual_stride,  # elements
    WIDTH: tl.constexpr,  # C
    EPS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,  # of a program's tile
    COLUMNS: tl.constexpr,  # C, padded to a power of two
):
    """Write normed (M, C), summed (M, C) where there is a residual, mean and rstd (M,)."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    in_width = columns < WIDTH
    in_rows = rows < n_rows
    mask = in_rows[:, None] & in_width[None, :]
    offsets = rows[:, None] * WIDTH + columns[None, :]

    values = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=mask, other=0.0)
    values = values.to(tl.float32)
    if HAS_RESIDUAL:
        added = tl.load(
            residual_ptr + rows[:, None] * residual_stride + columns[None, :], mask=mask, other=0.0
        )
        # What the backward reads is the rounded sum, so that is what is normalised.
        total = (values + added.to(tl.float32)).to(summed_ptr.dtype.element_ty)
        tl.store(summed_ptr + offsets, total, mask=mask)
        values = total.to(tl.float32)

    row_mean = tl.sum(values, 1) / WIDTH
    centred = tl.where(in_width[None, :], values - row_mean[:, None], 0.0)
    row_rstd = tl.rsqrt(tl.sum(centred * centred, 1) / WIDTH + EPS)
    tl.store(mean_ptr + rows, row_mean, mask=in_rows)
    tl.store(rstd_ptr + rows, row_rstd, mask=in_rows)

    scale = tl.load(weight_ptr + columns, mask=in_width, other=0.0).to(tl.float32)
    y = centred * row_rstd[:, None] * scale[None, :]
    if HAS_BIAS:
        y += tl.load(bias_ptr + columns, mask=in_width, other=0.0).to(tl.float32)[None, :]
    tl.store(normed_ptr + offsets, y.to(normed_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _backward_kernel(
    d_normed_ptr,  # (M, C), rows d_normed_stride apart
    d_summed_ptr,  # (M, C), rows d_summed_stride apart; unused without HAS_D_SUMMED
    values_ptr,  # (M, C): what was normalised
    weight_ptr,  # (C,)
    mean_ptr,  # (M,) fp32
    rstd_ptr,  # (M,) fp32
    d_residual_ptr,  # (M, C), written
    d_x_ptr,  # (M, C), written where HAS_D_X
    partials_ptr,  # (P, 1 or 2, C) fp32, written: P programs' sums for dweight and dbias
    n_rows,  # M
    d_normed_stride,  # elements
    d_summed_stride,  # elements
    values_stride,  # elements
    WIDTH: tl.constexpr,  # C
    HAS_D_SUMMED: tl.constexpr,
    HAS_D_X: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,  # of a tile
    COLUMNS: tl.constexpr,  # C, padded to a power of two
):
    """Gradients of the rows, and this program's sums for dweight and dbias: partials (P, 1|2, C).

    `values` is what was normalised; its gradient goes to d_residual, and once more to d_x where
    x has another dtype than the residual.
    """
    columns = tl.arange(0, COLUMNS)
    in_width = columns < WIDTH
    scale = tl.load(weight_ptr + columns, mask=in_width, other=0.0).to(tl.float32)
    d_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    d_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        rows = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        in_rows = rows < n_rows
        mask = in_rows[:, None] & in_width[None, :]
        dy = tl.load(
            d_normed_ptr + rows[:, None] * d_normed_stride + columns[None, :],
            mask=mask,
            other=0.0,
        ).to(tl.float32)
        x = tl.load(
            values_ptr + rows[:, None] * values_stride + columns[None, :], mask=mask, other=0.0
        ).to(tl.float32)
        row_mean = tl.load(mean_ptr + rows, mask=in_rows, other=0.0)
        row_rstd = tl.load(rstd_ptr + rows, mask=in_rows, other=0.0)

        # Padding has dy = 0, so whatever x_hat is there counts nowhere.
        x_hat = (x - row_mean[:, None]) * row_rstd[:, None]
        d_weight += dy * x_hat
        if HAS_BIAS:
            d_bias += dy
        g = dy * scale[None, :]
        along_mean = tl.sum(g, 1) / WIDTH
        along_x_hat = tl.sum(g * x_hat, 1) / WIDTH
        dx = (g - along_mean[:, None] - x_hat * along_x_hat[:, None]) * row_rstd[:, None]
        if HAS_D_SUMMED:
            dx += tl.load(
                d_summed_ptr + rows[:, None] * d_summed_stride + columns[None, :],
                mask=mask,
                other=0.0,
            ).to(tl.float32)

        offsets = rows[:, None] * WIDTH + columns[None, :]
        tl.store(d_residual_ptr + offsets, dx.to(d_residual_ptr.dtype.element_ty), mask=mask)
        if HAS_D_X:
            tl.store(d_x_ptr + offsets, dx.to(d_x_ptr.dtype.element_ty), mask=mask)

    own = partials_ptr + tl.program_id(0).to(tl.int64) * (WIDTH + HAS_BIAS * WIDTH)
    tl.store(own + columns, tl.sum(d_weight, 0), mask=in_width)
    if HAS_BIAS:
        tl.store(own + WIDTH + columns, tl.sum(d_bias, 0), mask=in_width)


# --- launchers ------------------------------------------------------------------------------------


def _launch_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(normed, summed, mean, rstd); summed has no elements where there is no residual."""
    normed, summed, mean, rstd = _empty_outputs(x, residual)
    if x.numel() == 0:
        return normed, summed, mean, rstd
    rows, width = as_rows(x), x.size(-1)
    added = rows if residual is None else as_rows(residual)
    tile = launch.find("layer_norm_forward", launch.width_class(width), x)
    with torch.cuda.device_of(x):
        _forward_kernel[(triton.cdiv(mean.numel(), tile.rows),)](
            rows, added, weight.contiguous(), weight if bias is None else bias.contiguous(),
            normed, summed, mean, rstd, mean.numel(), rows.stride(0), added.stride(0),
            WIDTH=width, EPS=eps, HAS_RESIDUAL=residual is not None, HAS_BIAS=bias is not None,
            ROWS=tile.rows, COLUMNS=tile.columns, **tile.options,
        )  # fmt: skip
    return normed, summed, mean, rstd


def _empty_outputs(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    summed = x.new_empty(0) if residual is None else residual.new_empty(x.shape)
    n_rows = math.prod(x.shape[:-1])  # torch.Size.numel() would make a dynamic shape a constant
    mean, rstd = (x.new_empty(n_rows, dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), summed, mean, rstd


# --- registration ---------------------------------------------------------------------------------


@operator("layer_norm")
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(normed, mean, rstd)."""
    normed, _, mean, rstd = _launch_forward(x, None, weight, bias, eps)
    return normed, mean, rstd


@fake(_layer_norm)
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    normed, _, mean, rstd = _empty_outputs(x, None)
    return normed, mean, rstd


@operator("add_layer_norm")
def _add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(normed, summed, mean, rstd)."""
    return _launch_forward(x, residual, weight, bias, eps)


@fake(_add_layer_norm)
def _(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_outputs(x, residual)


@operator("layer_norm_backward")
def _layer_norm_backward(
    d_normed: Tensor,
    d_summed: Tensor | None,
    values: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of `values`, the same in d_normed's dtype, fp32 sums (1 or 2, C) over the rows).

    The second has no elements where the dtypes agree and the first serves for both.
    """
    d_values, d_x, sums = _empty_gradients(d_normed, values, has_bias)
    if values.numel() == 0:
        return d_values, d_x, sums.zero_()
    rows, width = as_rows(values), values.size(-1)
    dy = as_rows(d_normed)
    ds = dy if d_summed is None else as_rows(d_summed)
    tile = launch.find("layer_norm_backward", launch.width_class(width), d_normed)
    programs = min(tile.programs, triton.cdiv(mean.numel(), tile.rows))
    partials = sums.new_empty(programs, *sums.shape)
    with torch.cuda.device_of(values):
        _backward_kernel[(programs,)](
            dy, ds, rows, weight.contiguous(), mean, rstd, d_values, d_x, partials,
            mean.numel(), dy.stride(0), ds.stride(0), rows.stride(0),
            WIDTH=width, HAS_D_SUMMED=d_summed is not None, HAS_D_X=d_x.numel() > 0,
            HAS_BIAS=has_bias, ROWS=tile.rows, COLUMNS=tile.columns, **tile.options,
        )  # fmt: skip
    return d_values, d_x, partials.sum(0)


@fake(_layer_norm_backward)
def _(
    d_normed: Tensor,
    d_summed: Tensor | None,
    values: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(d_normed, values, has_bias)


def _empty_gradients(
    d_normed: Tensor, values: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    d_x = d_normed.new_empty(0 if d_normed.dtype == values.dtype else values.shape)
    sums = values.new_empty(1 + has_bias, values.size(-1), dtype=torch.float32)
    return values.new_empty(values.shape), d_x, sums


def _save(ctx, values, weight, bias, mean, rstd) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(values, weight, mean, rstd)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _differentiate(
    ctx, d_normed: Tensor, d_summed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(gradient of values, of x, of weight, of bias), each in its own dtype."""
    values, weight, mean, rstd = ctx.saved_tensors
    has_bias = ctx.bias_dtype is not None
    d_values, d_x, sums = _layer_norm_backward(
        d_normed, d_summed, values, weight, mean, rstd, has_bias
    )
    if d_x.dtype == d_values.dtype:
        d_x = d_values
    d_bias = sums[1].to(ctx.bias_dtype) if has_bias else None
    return d_values, d_x, sums[0].to(weight.dtype), d_bias


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, _ = inputs
    _save(ctx, x, weight, bias, *output[1:])


def _backward(ctx, d_normed, *_):
    return *_differentiate(ctx, d_normed, None)[1:], None


def _add_setup_context(ctx, inputs, output) -> None:
    x, _, weight, bias, _ = inputs
    _, summed, mean, rstd = output
    _save(ctx, summed, weight, bias, mean, rstd)
    ctx.x_dtype = x.dtype


def _add_backward(ctx, d_normed, d_summed, *_):
    if d_normed is None:  # only the sum was used
        d_normed = torch.zeros_like(ctx.saved_tensors[0], dtype=ctx.x_dtype)
    d_residual, d_x, d_weight, d_bias = _differentiate(ctx, d_normed, d_summed)
    return d_x, d_residual, d_weight, d_bias, None


differentiable(_layer_norm, _backward, _setup_context)
differentiable(_add_layer_norm, _add_backward, _add_setup_context)
forbid_second_derivative(_layer_norm_backward, "layer_norm")

# --- public functions -----------------------------------------------------------------------------


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Layer normalisation over the last dimension; see `pygpt.ops.layer_norm`, the contract.

    Args:
        x: (…, C) in fp32, fp16 or bf16, C up to 16384.
        weight: (C,), in any of those dtypes.
        bias: (C,) or None.
        eps: added to the variance.

    Returns:
        (…, C), in x's dtype.

    Raises:
        ValueError: another dtype, or a wider row.
    """
    check_dtypes("layer_norm", x=x, weight=weight, bias=bias)
    launch.width_class(x.size(-1))
    normed: Tensor = _layer_norm(x, weight, bias, eps)[0]
    return normed


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """The sum residual + x and its layer norm; see `pygpt.ops.add_layer_norm`, the contract.

    Args:
        x: (…, C) in fp32, fp16 or bf16, C up to 16384.
        residual: (…, C) in any of those dtypes.
        weight: (C,), in any of those dtypes.
        bias: (C,) or None.
        eps: added to the variance.

    Returns:
        (normed in x's dtype, summed in residual's), both (…, C).

    Raises:
        ValueError: another dtype, or a wider row.
    """
    check_dtypes("add_layer_norm", x=x, residual=residual, weight=weight, bias=bias)
    launch.width_class(x.size(-1))
    normed, summed, _, _ = _add_layer_norm(x, residual, weight, bias, eps)
    return normed, summed
