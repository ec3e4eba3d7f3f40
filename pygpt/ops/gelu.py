"""GELU with the bias of the linear layer before it.

The reference is PyTorch's `gelu`. The Triton kernel is ``pygpt.kernels.gelu``. The native
implementation, for a CPU, is the last section of this file.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt import _C
from pygpt.kernels.registration import differentiable, fake, operator
from pygpt.ops import native
from pygpt.ops.checks import check_channel_vector
from pygpt.ops.dispatch import choose


def gelu(
    x: Tensor, bias: Tensor | None = None, *, approximate: str = "tanh", impl: str = "auto"
) -> Tensor:
    """GELU of x + bias: z·Φ(z), or its tanh form, which is GPT-2's.

    Hendrycks and Gimpel 2016, section 2.

    Args:
        x: (…, C).
        bias: (C,) or None, the bias of the linear layer before.
        approximate: "tanh" or "none" (by the error function).
        impl: see `pygpt.ops`.

    Returns:
        (…, C), in x's dtype.

    Raises:
        ValueError: a bias that does not fit, or another `approximate`.
    """
    if approximate not in ("tanh", "none"):
        raise ValueError(f"gelu: approximate={approximate!r}, not 'tanh'/'none'")
    check_channel_vector("gelu", "bias", bias, x)
    chosen = choose("gelu", impl, x.device, x.dtype)
    if chosen == "native" and approximate != "tanh":
        if impl != "auto":
            raise ValueError("gelu: impl='native' takes approximate='tanh'; take impl='eager'")
        chosen = "eager"
    if chosen == "native":
        return gelu_native(x, bias)
    if chosen == "triton":
        from pygpt.kernels.gelu import gelu as gelu_triton

        y: Tensor = gelu_triton(x, bias, approximate=approximate)
        return y
    return F.gelu(x if bias is None else x + bias.to(x.dtype), approximate=approximate)


# --- native, on a CPU -----------------------------------------------------------------------------
# PyTorch's tanh is exact to the last place, and slow for it. Here the logistic form of GELU takes
# one exponential, and the gradient of the bias comes from the pass that computes the gradient of x.


def gelu_native(x: Tensor, bias: Tensor | None = None, *, level: str = "") -> Tensor:
    """The native implementation of the tanh form; see `gelu`, the contract.

    Args:
        x: (…, C), fp32 or bf16.
        bias: (C,) or None, of any dtype; taken in x's.
        level: an instruction set of `pygpt.ops.native.levels()`; "" for its `default_level`.
    """
    y: Tensor = torch.ops.pygpt.gelu_native(x, bias, level)
    return y


@operator("gelu_native", "CPU")
def _native(x: Tensor, bias: Tensor | None, level: str) -> Tensor:
    y = x.new_empty(x.shape)
    operands, _keep_alive = _operands(x, bias, level)
    if y.numel():
        _C.gelu(y=y.data_ptr(), **operands)
    return y


@fake(_native)
def _native_fake(x: Tensor, bias: Tensor | None, level: str) -> Tensor:
    return x.new_empty(x.shape)


@operator("gelu_native_backward", "CPU")
def _native_backward(
    dy: Tensor, x: Tensor, bias: Tensor | None, level: str
) -> tuple[Tensor, Tensor]:
    """The gradients: dx in x's dtype, dbias in fp32, empty where there is no bias."""
    dx, dbias = _native_backward_fake(dy, x, bias, level)
    dy = dy.contiguous()
    operands, _keep_alive = _operands(x, bias, level)
    if dx.numel():
        address = 0 if bias is None else dbias.data_ptr()
        _C.gelu_backward(dy=dy.data_ptr(), dx=dx.data_ptr(), dbias=address, **operands)
    else:
        dbias.zero_()
    return dx, dbias


@fake(_native_backward)
def _native_backward_fake(
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


differentiable(_native, _backward, _setup_context)
