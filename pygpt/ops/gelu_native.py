"""GELU of x + bias on a CPU, in its tanh form: the native implementation of `pygpt.ops.gelu`.

PyTorch's tanh is exact to the last place and slow for it; here the logistic form of GELU takes one
exponential. The gradient of the bias comes out of the pass that makes the gradient of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pygpt import _C
from pygpt.ops import native


def gelu(x: Tensor, bias: Tensor | None = None, *, level: str = "") -> Tensor:
    """GELU of x + bias; see `pygpt.ops.gelu`.

    Args:
        x: (…, C), fp32 or bf16.
        bias: (C,) or None, of any dtype; taken in x's.
        level: an instruction set of `pygpt.ops.native.levels()`; "" for its `default_level`.
    """
    y: Tensor = torch.ops.pygpt.gelu_native(x, bias, level)
    return y


@torch.library.custom_op("pygpt::gelu_native", mutates_args=(), device_types="cpu")
def _gelu(x: Tensor, bias: Tensor | None, level: str) -> Tensor:
    y = x.new_empty(x.shape)
    operands, _keep_alive = _operands(x, bias, level)
    if y.numel():
        _C.gelu(y=y.data_ptr(), **operands)
    return y


@_gelu.register_fake
def _gelu_fake(x: Tensor, bias: Tensor | None, level: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("pygpt::gelu_native_backward", mutates_args=(), device_types="cpu")
def _gelu_backward(dy: Tensor, x: Tensor, bias: Tensor | None, level: str) -> tuple[Tensor, Tensor]:
    """The gradients: dx in x's dtype, dbias in fp32, empty where there is no bias."""
    dx, dbias = _gelu_backward_fake(dy, x, bias, level)
    dy = dy.contiguous()
    operands, _keep_alive = _operands(x, bias, level)
    if dx.numel():
        address = 0 if bias is None else dbias.data_ptr()
        _C.gelu_backward(dy=dy.data_ptr(), dx=dx.data_ptr(), dbias=address, **operands)
    else:
        dbias.zero_()
    return dx, dbias


@_gelu_backward.register_fake
def _gelu_backward_fake(
    dy: Tensor, x: Tensor, bias: Tensor | None, level: str
) -> tuple[Tensor, Tensor]:
    dbias = x.new_empty(0 if bias is None else x.size(-1), dtype=torch.float32)
    return x.new_empty(x.shape), dbias


def _operands(x: Tensor, bias: Tensor | None, level: str) -> tuple[dict[str, Any], list[Tensor]]:
    """What both directions hand to C++, and the tensors that its addresses point into."""
    if x.dtype not in native.DTYPES or x.device.type != "cpu":
        raise ValueError(f"native GELU takes fp32 and bf16 on a CPU, not {x.dtype} on {x.device}")
    width = x.size(-1)
    x = x.contiguous()
    bias = x.new_zeros(width) if bias is None else bias.to(x.dtype).contiguous()
    operands = {
        "x": x.data_ptr(),
        "bias": bias.data_ptr(),
        "bfloat16": x.dtype == torch.bfloat16,
        "rows": x.numel() // max(width, 1),
        "width": width,
        "threads": torch.get_num_threads(),
        "level": level or native.default_level(),
    }
    return operands, [x, bias]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, ctx.level = inputs
    ctx.save_for_backward(x, bias)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "gelu: the native kernel has no second derivative (create_graph=True); "
            "take impl='eager'"
        )
    x, bias = ctx.saved_tensors
    dx, dbias = torch.ops.pygpt.gelu_native_backward(dy, x, bias, ctx.level)
    return dx, None if bias is None else dbias.to(bias.dtype), None


_gelu.register_autograd(_backward, setup_context=_setup_context)
