"""A whole step of decoding in one call of ``pygpt._C``: what C++ takes on trust is checked here.

A step reads every weight once, so memory bandwidth limits it: weights in bf16 take half the time of
fp32, and int8 a quarter. All arithmetic is fp32. A sequence's logits depend neither on the other
sequences of the batch nor on the number of threads, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt import _C
from pygpt.ops import native

TYPES = ("float32", "bfloat16", "int8")
"""What weights can be stored as."""

_INT8_LARGEST = 127


@dataclasses.dataclass(frozen=True)
class PackedMatrix:
    """The weights of a linear layer, (rows, columns), in one of `TYPES`.

    int8 is symmetric, with one scale a row: weight = data·scale, scale = max |row| / 127, so that a
    weight is off by at most half its row's scale.
    """

    data: Tensor
    """(rows, columns), contiguous."""
    scales: Tensor | None
    """(rows,), fp32, of int8; None for the others."""

    @classmethod
    def pack(cls, weight: Tensor, dtype: str) -> PackedMatrix:
        """Round `weight` (rows, columns) to `dtype`; one that has the dtype is shared, not copied.

        Raises:
            ValueError: a dtype that is not in `TYPES`, or a tensor that is no matrix on a CPU.
        """
        if dtype not in TYPES:
            raise ValueError(f"weights can be {', '.join(TYPES)}, not {dtype}")
        if weight.dim() != 2 or weight.device.type != "cpu":
            raise ValueError(f"weights must be a matrix on a CPU, got {tuple(weight.shape)}")
        weight = weight.detach()
        if dtype != "int8":
            return cls(weight.to(getattr(torch, dtype)).contiguous(), None)
        weight = weight.float()
        scales = weight.abs().amax(dim=1) / _INT8_LARGEST
        steps = weight / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        return cls(steps.round().to(torch.int8).contiguous(), scales)

    def unpack(self) -> Tensor:
        """The weights that the step computes with, fp32."""
        weight = self.data.float()
        return weight if self.scales is None else weight * self.scales[:, None]

    def _native(self) -> _C.Matrix:
        rows, columns = self.data.shape
        return _C.Matrix(
            data=self.data.data_ptr(),
            scales=_address(self.scales),
            dtype=str(self.data.dtype).removeprefix("torch."),
            rows=rows,
            columns=columns,
        )


@dataclasses.dataclass(frozen=True)
class PackedLinear:
    """A linear layer."""

    weight: PackedMatrix
    bias: Tensor | None
    """(rows,), fp32."""


@dataclasses.dataclass(frozen=True)
class Norm:
    """A layer norm's parameters, (C,), fp32."""

    weight: Tensor
    bias: Tensor | None

    def _native(self) -> _C.Norm:
        return _C.Norm(weight=self.weight.data_ptr(), bias=_address(self.bias))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A block of GPT-2, with C = n_embd."""

    ln_1: Norm
    c_attn: PackedLinear
    """(3·C, C)."""
    attn_proj: PackedLinear
    """(C, C)."""
    ln_2: Norm
    c_fc: PackedLinear
    """(4·C, C)."""
    mlp_proj: PackedLinear
    """(C, 4·C)."""

    def _native(self) -> _C.Layer:
        return _C.Layer(
            ln_1=self.ln_1._native(),
            c_attn=self.c_attn.weight._native(),
            c_attn_bias=_address(self.c_attn.bias),
            attn_proj=self.attn_proj.weight._native(),
            attn_proj_bias=_address(self.attn_proj.bias),
            ln_2=self.ln_2._native(),
            c_fc=self.c_fc.weight._native(),
            c_fc_bias=_address(self.c_fc.bias),
            mlp_proj=self.mlp_proj.weight._native(),
            mlp_proj_bias=_address(self.mlp_proj.bias),
        )


@dataclasses.dataclass(frozen=True)
class Weights:
    """A GPT-2: V ids, P positions, C = n_embd."""

    layers: Sequence[Layer]
    ln_f: Norm
    tokens: PackedMatrix
    """(V, C): embedding and head."""
    positions: Tensor
    """(P, C), fp32."""
    n_head: int

    def check(self) -> None:
        """Raise ValueError for weights that do not fit each other."""
        n_positions, n_embd = self.positions.shape
        _check("positions", self.positions, (n_positions, n_embd))
        if n_embd % self.n_head:
            raise ValueError(f"decode_step: {n_embd} channels for {self.n_head} heads")
        _check_matrix("tokens", self.tokens, self.tokens.data.size(0), n_embd)
        _check_norm("ln_f", self.ln_f, n_embd)
        for layer in self.layers:
            _check_norm("ln_1", layer.ln_1, n_embd)
            _check_norm("ln_2", layer.ln_2, n_embd)
            _check_linear("c_attn", layer.c_attn, 3 * n_embd, n_embd)
            _check_linear("attn_proj", layer.attn_proj, n_embd, n_embd)
            _check_linear("c_fc", layer.c_fc, 4 * n_embd, n_embd)
            _check_linear("mlp_proj", layer.mlp_proj, n_embd, 4 * n_embd)


class DecodeStep:
    """Next logits of up to `rows` sequences, each with a cache for as many positions as the model.

    Args:
        weights: kept, and read by each step.
        rows: sequences.
        bfloat16_cache: keys and values in bf16 instead of fp32.
        level: an instruction set of `native.levels()`; "" for `native.default_level`.

    Raises:
        ValueError: weights that do not fit each other, or a level that can't run here.
    """

    def __init__(
        self, weights: Weights, rows: int, *, bfloat16_cache: bool, level: str = ""
    ) -> None:
        weights.check()
        self._weights, self._rows = weights, rows
        n_positions, n_embd = weights.positions.shape
        block, self._head_size = _C.key_block, n_embd // weights.n_head
        heads = (len(weights.layers), rows, weights.n_head)
        blocks, stride = -(-n_positions // block), -(-self._head_size // block) * block
        dtype = torch.bfloat16 if bfloat16_cache else torch.float32
        # Of 16 keys each channel lies together: the scores of 16 positions are neighbouring lanes.
        self._keys = torch.zeros(*heads, blocks, self._head_size, block, dtype=dtype)
        self._values = torch.zeros(*heads, n_positions, stride, dtype=dtype)
        self._native = _C.DecodeStep(
            layers=[layer._native() for layer in weights.layers],
            ln_f=weights.ln_f._native(),
            tokens=weights.tokens._native(),
            positions=weights.positions.data_ptr(),
            n_head=weights.n_head,
            block_size=n_positions,
            keys=self._keys.data_ptr(),
            values=self._values.data_ptr(),
            bfloat16_cache=bfloat16_cache,
            rows=rows,
            level=level or native.default_level(),
        )

    def store(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Fill the first T positions of a row's cache with (n_layer, T, C) keys and values."""
        n_layer, n_read, _ = keys.shape
        heads = (self._weights.n_head, self._head_size)
        by_head = values.reshape(n_layer, n_read, *heads).transpose(1, 2)
        self._values[:, row, :, :n_read, : self._head_size] = by_head
        block = _C.key_block
        blocks = -(-n_read // block)
        padded = F.pad(keys, (0, 0, 0, blocks * block - n_read))
        by_block = padded.view(n_layer, blocks, block, *heads)
        self._keys[:, row, :, :blocks] = by_block.permute(0, 3, 1, 4, 2)

    def run(self, ids: Sequence[int], rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Read one id in each of `rows`, whose caches hold the positions before.

        Not from two threads at once.

        Args:
            ids: (n,).
            rows: (n,), distinct.
            positions: (n,), of the ids.

        Returns:
            Logits (n, V), fp32.

        Raises:
            ValueError: numbers out of their range, or a row that comes twice.
        """
        n_vocab = self._weights.tokens.data.size(0)
        for name, numbers, end in (
            ("ids", ids, n_vocab),
            ("rows", rows, self._rows),
            ("positions", positions, len(self._weights.positions)),
        ):
            if len(numbers) != len(ids) or not all(0 <= number < end for number in numbers):
                raise ValueError(f"decode_step: {name} must be {len(ids)} numbers in [0, {end})")
        if len(set(rows)) != len(rows):
            raise ValueError(f"decode_step: rows must be distinct, got {list(rows)}")
        logits = torch.empty(len(ids), n_vocab)
        self._native.run(
            ids=ids,
            rows=rows,
            positions=positions,
            logits=logits.data_ptr(),
            threads=torch.get_num_threads(),
        )
        return logits


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _check_norm(name: str, norm: Norm, size: int) -> None:
    _check(name, norm.weight, (size,))
    if norm.bias is not None:
        _check(f"{name}'s bias", norm.bias, (size,))


def _check_linear(name: str, linear: PackedLinear, rows: int, columns: int) -> None:
    _check_matrix(name, linear.weight, rows, columns)
    if linear.bias is not None:
        _check(f"{name}'s bias", linear.bias, (rows,))


def _check_matrix(name: str, matrix: PackedMatrix, rows: int, columns: int) -> None:
    _check(name, matrix.data, (rows, columns), *(getattr(torch, each) for each in TYPES))
    if (matrix.data.dtype == torch.int8) != (matrix.scales is not None):
        raise ValueError(f"decode_step: {name} of {matrix.data.dtype}: int8 alone has scales")
    if matrix.scales is not None:
        _check(f"{name}'s scales", matrix.scales, (rows,))


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    dtypes = dtypes or (torch.float32,)
    fits = tensor.shape == shape and tensor.dtype in dtypes and tensor.is_contiguous()
    if not fits or tensor.device.type != "cpu":
        raise ValueError(
            f"decode_step: {name} must be {shape}, contiguous, on a CPU and of "
            f"{' or '.join(map(str, dtypes))}, and is {tuple(tensor.shape)}, {tensor.dtype}, "
            f"stride {tensor.stride()} on {tensor.device}"
        )
