"""The native CPU ops of ``pygpt._C`` over tensors: what C++ takes on trust is checked here.

Each call runs on `torch.get_num_threads()` threads; the results don't depend on how many. The
instruction set is the best that the CPU has, or what the environment variable ``PYGPT_CPU_LEVEL``
names ("generic", "avx2" or "avx512"; an error if the CPU lacks it).
"""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

from pygpt import _C
from pygpt.ops.tracing import constant_while_tracing
from pygpt.utils.errors import InputError

DTYPES = (torch.float32, torch.bfloat16)

ATTENTION_POSITIONS = _C.attention_positions
"""The positions of `attention_backward_rows` are a multiple of this: C++ reads whole vectors."""


@functools.cache
def levels() -> tuple[str, ...]:
    """The instruction-set levels that this CPU runs, lowest first."""
    return tuple(_C.cpu_levels())


@constant_while_tracing
def default_level() -> str:
    """The level of ops that are given none: what ``PYGPT_CPU_LEVEL`` names, else the highest.

    Raises:
        InputError: ``PYGPT_CPU_LEVEL`` names a level that can't run here.
    """
    level = os.environ.get("PYGPT_CPU_LEVEL") or levels()[-1]
    if level not in levels():
        raise InputError(
            f"PYGPT_CPU_LEVEL={level} can't run here; this CPU has {', '.join(levels())}"
        )
    return level


def cross_entropy_rows(
    logits: Tensor,
    targets: Tensor,
    loss: Tensor,
    lse: Tensor,
    row_weight: Tensor | None,
    *,
    ignore_index: int,
    z_loss: float,
    label_smoothing: float,
    gradient: bool,
    level: str = "",
) -> None:
    """Softmax cross-entropy of each row of logits; with `gradient`, its gradient in their place.

    A target outside [0, V) that is not `ignore_index` makes its row's loss and gradient NaN.

    Args:
        logits: (M, V), fp32 or bf16, rows contiguous; overwritten by d(row_weight·loss)/d(logits).
        targets: (M,), int64.
        loss: (M,), fp32; written. 0 where the target is `ignore_index`.
        lse: (M,), fp32; written: log Σ exp(logits).
        row_weight: (M,), fp32, or None for ones.
        ignore_index: the target of rows that don't count; their gradient is 0.
        z_loss: weight of the added lse².
        label_smoothing: share of the target spread over all ids.
        gradient: whether to write the gradient; otherwise the logits are left alone.
        level: an instruction set of `levels()`; "" for `default_level`.

    Raises:
        ValueError: tensors that don't fit the above, or a level that can't run here.
    """
    rows, vocab = logits.shape
    if logits.dtype not in DTYPES:
        raise ValueError(f"cross_entropy_rows takes fp32 and bf16 logits, not {logits.dtype}")
    if vocab > 1 and logits.stride(1) != 1:
        raise ValueError(
            f"cross_entropy_rows: a row of logits has stride {logits.stride(1)}, not 1"
        )
    _check_vector("targets", targets, rows, torch.int64)
    _check_vector("loss", loss, rows, torch.float32)
    _check_vector("lse", lse, rows, torch.float32)
    if row_weight is not None:
        _check_vector("row_weight", row_weight, rows, torch.float32)
        _check_cpu(row_weight)
    _check_cpu(logits, targets, loss, lse)
    _C.cross_entropy_rows(
        logits=logits.data_ptr(),
        bfloat16=logits.dtype == torch.bfloat16,
        rows=rows,
        vocab=vocab,
        row_stride=logits.stride(0),
        targets=targets.data_ptr(),
        row_weight=0 if row_weight is None else row_weight.data_ptr(),
        loss=loss.data_ptr(),
        lse=lse.data_ptr(),
        ignore_index=ignore_index,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        gradient=gradient,
        threads=torch.get_num_threads(),
        level=level or default_level(),
    )


def accumulate(total: Tensor, addend: Tensor, *, level: str = "") -> None:
    """Total += addend, for an fp32 total and a bf16 addend of the same shape, both contiguous.

    Four times as fast as PyTorch's add of two dtypes.

    Raises:
        ValueError: other dtypes, shapes or layouts, or a level that can't run here.
    """
    if total.dtype != torch.float32 or addend.dtype != torch.bfloat16:
        raise ValueError(f"accumulate adds bf16 to fp32, not {addend.dtype} to {total.dtype}")
    if total.shape != addend.shape or not (total.is_contiguous() and addend.is_contiguous()):
        raise ValueError("accumulate takes two contiguous tensors of one shape")
    _check_cpu(total, addend)
    _C.accumulate(
        sum=total.data_ptr(),
        addend=addend.data_ptr(),
        size=total.numel(),
        threads=torch.get_num_threads(),
        level=level or default_level(),
    )


def attention_backward_rows(
    scores: Tensor, weights: Tensor, gradient: Tensor, *, scale: float, level: str = ""
) -> None:
    """Between the products of attention's backward: causal softmax, and the scores' gradient.

    Args:
        scores: (H, T, T), fp32: q·kᵀ; scratch from then on. T is a multiple of ATTENTION_POSITIONS.
        weights: (H, T, T), bf16; written: softmax(scale·scores), 0 above the diagonal.
        gradient: (H, T, T), bf16: dy·vᵀ; overwritten by the gradient of q·kᵀ.
        scale: above 0.
        level: an instruction set of `levels()`; "" for `default_level`.

    Raises:
        ValueError: tensors that don't fit the above, or a level that can't run here.
    """
    heads, positions, _ = scores.shape
    shape = (heads, positions, positions)
    wanted = {"scores": torch.float32, "weights": torch.bfloat16, "gradient": torch.bfloat16}
    for (name, dtype), tensor in zip(wanted.items(), (scores, weights, gradient), strict=True):
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"attention_backward_rows: {name} must be {shape}, {dtype} and contiguous, and is "
                f"{tuple(tensor.shape)}, {tensor.dtype}, stride {tensor.stride()}"
            )
    if positions % ATTENTION_POSITIONS:
        raise ValueError(
            f"attention_backward_rows: {positions} positions are not a multiple of "
            f"{ATTENTION_POSITIONS}"
        )
    if not scale > 0:
        raise ValueError(f"attention_backward_rows: scale must be above 0, got {scale}")
    _check_cpu(scores, weights, gradient)
    _C.attention_backward_rows(
        scores=scores.data_ptr(),
        weights=weights.data_ptr(),
        gradient=gradient.data_ptr(),
        heads=heads,
        positions=positions,
        scale=scale,
        threads=torch.get_num_threads(),
        level=level or default_level(),
    )


def read_memory(tensor: Tensor, piece: int, *, level: str = "") -> int:
    """Read all of a tensor and nothing else, to measure memory's bandwidth.

    Args:
        tensor: contiguous, on a CPU.
        piece: bytes that a thread reads at a time, a multiple of 8.
        level: an instruction set of `levels()`; "" for `default_level`.

    Returns:
        The exclusive or of its words of 64 bits, the last one filled with zeros.

    Raises:
        ValueError: another tensor or piece, or a level that can't run here.
    """
    if piece < 8 or piece % 8 or not tensor.is_contiguous():
        raise ValueError(f"read_memory: a contiguous tensor and a multiple of 8, got {piece}")
    _check_cpu(tensor)
    return _C.read_memory(
        memory=tensor.data_ptr(),
        size=tensor.nbytes,
        piece=piece,
        threads=torch.get_num_threads(),
        level=level or default_level(),
    )


def _check_vector(name: str, vector: Tensor, size: int, dtype: torch.dtype) -> None:
    if vector.shape != (size,) or vector.dtype != dtype or not vector.is_contiguous():
        raise ValueError(
            f"cross_entropy_rows: {name} must be ({size},), {dtype} and contiguous, and is "
            f"{tuple(vector.shape)}, {vector.dtype}, stride {vector.stride()}"
        )


def _check_cpu(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.device.type != "cpu":
            raise ValueError(f"the native ops run on a CPU, and a tensor is on {tensor.device}")
