"""bf16 and TF32 in Triton's interpreter, so that kernels are tested in them without a GPU.

Triton's interpreter stores bf16 as 16-bit integers, and a dot or a sum of bf16 is one of those
integers: its results are wrong. `exact_bfloat16` makes it do what a GPU does:

- casts between fp32 and bf16 are exact, or round to nearest even;
- a dot of bf16 operands multiplies them exactly and sums in fp32;
- a dot of fp32 operands with input_precision="tf32" first rounds them to TF32;
- all other arithmetic on bf16 is an error: a kernel has to cast to fp32 first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

Handle = interpreter.TensorHandle
Builder = interpreter.InterpreterBuilder


class BFloat16ArithmeticError(NotImplementedError):
    """A kernel computes in bf16 where it should have cast to fp32."""


def to_float32(bits: np.ndarray) -> np.ndarray:
    """The fp32 numbers of bf16 `bits` (uint16), exact."""
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """The bits (uint16) of fp32 `numbers`, rounded to nearest even by torch."""
    flat = np.ascontiguousarray(numbers, dtype=np.float32).reshape(-1)
    rounded = torch.from_numpy(flat.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    return rounded.view(np.uint16).reshape(np.shape(numbers))


def to_tf32(numbers: np.ndarray) -> np.ndarray:
    """Fp32 `numbers` rounded to the 10 bits of mantissa that TF32 keeps, ties away from zero."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(numbers), rounded, numbers).astype(np.float32)


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, Handle) and value.dtype.scalar == tl.bfloat16


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, source: Any, dtype: Any, *rest: Any) -> Any:
        of, to = source.dtype.scalar, dtype.scalar
        if tl.bfloat16 not in (of, to) or of == to:
            return original(self, source, dtype, *rest)
        if of == tl.bfloat16 and to == tl.float32:
            return Handle(to_float32(source.data), to)
        if of == tl.float32 and to == tl.bfloat16:
            return Handle(to_bfloat16(source.data), to)
        raise BFloat16ArithmeticError(f"cast from {of} to {to}")

    return cast


def _dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def dot(self: Any, a: Any, b: Any, acc: Any, precision: Any, *rest: Any) -> Any:
        if _is_bfloat16(a) != _is_bfloat16(b):
            raise BFloat16ArithmeticError("dot of bf16 and another dtype")
        if _is_bfloat16(a):
            a, b = (Handle(to_float32(x.data), tl.float32) for x in (a, b))
        elif a.dtype.scalar == tl.float32 and "TF32" in str(precision).upper():
            a, b = (Handle(to_tf32(x.data), tl.float32) for x in (a, b))
        return original(self, a, b, acc, precision, *rest)

    return dot


def _refuse(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(self: Any, *operands: Any) -> Any:
        if any(map(_is_bfloat16, operands)):
            raise BFloat16ArithmeticError(name)
        return original(self, *operands)

    return refuse


@contextmanager
def exact_bfloat16() -> Iterator[None]:
    """Give Triton's interpreter the bf16 and the TF32 of a GPU; see the module's docstring."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cast_impl", "create_fp_to_fp", "create_fp_ext", "create_fp_trunc"):
            patch.setattr(Builder, name, _cast(getattr(Builder, name)))
        patch.setattr(Builder, "create_dot", _dot(Builder.create_dot))
        for name in ("binary_op", "unary_op", "ternary_op"):
            patch.setattr(Builder, name, _refuse(name, getattr(Builder, name)))
        yield
