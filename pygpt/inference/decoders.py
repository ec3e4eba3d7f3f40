"""What computes the logits of a step: a model with a cache of keys and values, row by row.

The engine knows requests and text; a decoder knows rows of a batch and ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from pygpt.model import GPT, Block, KVCache, LayerNorm
from pygpt.ops import native
from pygpt.ops.decode_step import DecodeStep, Layer, Norm, PackedLinear, PackedMatrix, Weights
from pygpt.ops.dispatch import Implementations
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16"]
Quantize = Literal["int8"]


class Decoder(Protocol):
    """Logits of rows that have read different texts."""

    description: str
    """The implementation and the types of weights, for a log."""

    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """Forget what the row has read, read 1 to block_size `ids`; the logits (V,) behind them."""

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Read one further id in each of `rows`, which have room for it; their logits (n, V)."""


def make_decoder(
    model: GPT, max_batch: int, *, dtype: Dtype = "auto", quantize: Quantize | None = None
) -> Decoder:
    """The fastest decoder for a model: `NativeDecoder` on a CPU, otherwise `EagerDecoder`.

    A model whose ops are all "eager" gets the eager one, which is announced in the log.

    Args:
        model: in eval mode.
        max_batch: rows.
        dtype: of the weights; "auto" is autocast's where it is on, and the model's otherwise.
        quantize: "int8" for int8 weights, on a CPU.

    Raises:
        InputError: an unknown dtype or quantize, or quantize where the native decoder can't run.
    """
    weight = model.wte.weight
    if dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"dtype must be auto, float32 or bfloat16, got {dtype!r}")
    if quantize not in (None, "int8"):
        raise InputError(f"quantize must be None or int8, got {quantize!r}")
    if dtype != "auto":
        chosen = getattr(torch, dtype)
    elif torch.is_autocast_enabled(weight.device.type):
        chosen = torch.get_autocast_dtype(weight.device.type)
    else:
        chosen = weight.dtype
    missing = _why_not_native(model, chosen)
    if not missing:
        return NativeDecoder(model, max_batch, "int8" if quantize else _name(chosen))
    if quantize:
        raise InputError(f"quantize={quantize} needs the native decoder: {missing}")
    logger.info("decoding with PyTorch's ops: %s", missing)
    return EagerDecoder(model, max_batch, None if dtype == "auto" else chosen)


def check_quantize(quantize: Quantize | None, device: torch.device, impl: str) -> None:
    """Refuse what `make_decoder` would refuse, before a model is loaded.

    Raises:
        InputError: int8 weights on a GPU, or with all ops "eager".
    """
    if quantize and device.type != "cpu":
        raise InputError(f"--quantize {quantize} is for a CPU; give --device cpu")
    if quantize and set(dataclasses.astuple(Implementations.parse(impl))) == {"eager"}:
        raise InputError(
            f"--quantize {quantize} needs the native decoder, and --impl eager excludes it: "
            "give one of the two"
        )


def _why_not_native(model: GPT, dtype: torch.dtype) -> str:
    device = model.wte.weight.device
    if device.type != "cpu":
        return f"the native decoder runs on a CPU, and the model is on {device}"
    if set(dataclasses.astuple(model.impl)) == {"eager"}:
        return "the model's impl is eager"
    if not {dtype, model.wte.weight.dtype} <= set(native.DTYPES):
        return f"the native decoder takes float32 and bfloat16, not {_name(dtype)}"
    return ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class NativeDecoder:
    """Steps in C++ (`pygpt.ops.decode_step`); prompts are read by the model's own forward.

    A row's logits after a step are the same, bit for bit, alone and in any batch, with any number
    of threads. Of a prompt, all ids but the last go through the model: in fp32, or under bf16
    autocast for bf16 and int8 weights, so that int8 rounds only the weights of steps. The
    matrices are kept in bf16 for that: rounding them for each prompt took half of its time.

    Args:
        model: fp32 or bf16, on a CPU, in eval mode. fp32 steps share its weights; for the
            other types, the matrices are copied, and the caller can free the model.
        max_batch: rows.
        weights: "float32", "bfloat16" or "int8", with keys and values in fp32 for the first and
            in bf16 for the others.
        level: an instruction set; "" for the default one.
    """

    def __init__(self, model: GPT, max_batch: int, weights: str, *, level: str = "") -> None:
        self._dtype = torch.float32 if weights == "float32" else torch.bfloat16
        packed = pack(model, weights)
        self._model = model
        if weights != "float32":
            bfloat16 = packed if weights == "bfloat16" else pack(model, "bfloat16")
            self._model = _with_weights(model, bfloat16)
        self._step = DecodeStep(
            packed, max_batch, bfloat16_cache=self._dtype == torch.bfloat16, level=level
        )
        self._prompt = KVCache(model.config, 1, dtype=self._dtype)
        self._lengths = [0] * max_batch
        self.description = f"{weights} weights, native ({level or native.default_level()})"

    @torch.no_grad()
    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """See `Decoder.read`."""
        *before, last = ids
        if before:
            self._read_prompt(row, before)
        self._lengths[row] = len(before)
        return self.step([row], [last])[0]

    def _read_prompt(self, row: int, ids: Sequence[int]) -> None:
        cache = self._prompt
        cache.lengths.zero_()
        cache.extent = len(ids)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            self._model.hidden(torch.tensor([ids]), cache)
        keys, values = cache.kv[:, :, 0, : len(ids)].unbind(1)
        self._step.store(row, keys, values)

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See `Decoder.step`."""
        logits = self._step.run(ids, rows, [self._lengths[row] for row in rows])
        for row in rows:
            self._lengths[row] += 1
        return logits


def pack(model: GPT, dtype: str) -> Weights:
    """A model's weights in one of `pygpt.ops.decode_step.TYPES`, as the native step reads them."""

    def linear(layer: nn.Linear) -> PackedLinear:
        return PackedLinear(PackedMatrix.pack(layer.weight, dtype), _float(layer.bias))

    def norm(layer: LayerNorm) -> Norm:
        return Norm(layer.weight.detach().float(), _float(layer.bias))

    layers = [
        Layer(
            ln_1=norm(block.ln_1),
            c_attn=linear(block.attn.c_attn),
            attn_proj=linear(block.attn.c_proj),
            ln_2=norm(block.ln_2),
            c_fc=linear(block.mlp.c_fc),
            mlp_proj=linear(block.mlp.c_proj),
        )
        for block in cast(Sequence[Block], model.h)
    ]
    return Weights(
        layers,
        norm(model.ln_f),
        PackedMatrix.pack(model.wte.weight, dtype),
        model.wpe.weight.detach().float(),
        model.config.n_head,
    )


def _with_weights(model: GPT, packed: Weights) -> GPT:
    """The model with the packed matrices in place of its own; the rest is shared, not copied."""
    state = model.state_dict()
    state["wte.weight"] = packed.tokens.data
    for i, layer in enumerate(packed.layers):
        state[f"h.{i}.attn.c_attn.weight"] = layer.c_attn.weight.data
        state[f"h.{i}.attn.c_proj.weight"] = layer.attn_proj.weight.data
        state[f"h.{i}.mlp.c_fc.weight"] = layer.c_fc.weight.data
        state[f"h.{i}.mlp.c_proj.weight"] = layer.mlp_proj.weight.data
    with torch.device("meta"):
        result = GPT(model.config, model.impl)
    result.load_state_dict(state, assign=True)
    return result.eval()


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float()


class EagerDecoder:
    """The model's own forward, on any device and in any dtype.

    `dtype` runs it under autocast; None leaves that to the caller.

    A step computes all rows up to the last one in use: which of PyTorch's matrix products run
    depends on that number, and so does the rounding of the logits.
    """

    def __init__(self, model: GPT, max_batch: int, dtype: torch.dtype | None = None) -> None:
        weight = model.wte.weight
        device = weight.device
        self._autocast: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if dtype and dtype != weight.dtype:
            self._autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        with self._autocast:
            if torch.is_autocast_enabled(device.type):
                dtype = torch.get_autocast_dtype(device.type)
        dtype = dtype or weight.dtype
        self._model, self._device = model, device
        self._cache = KVCache(model.config, max_batch, dtype=dtype, device=device)
        self._lengths = [0] * max_batch  # of the rows, known without asking the device
        self.description = f"{str(dtype).removeprefix('torch.')}, {model.impl}"

    @torch.no_grad()
    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """See `Decoder.read`."""
        cache = self._cache.rows(row, row + 1)
        cache.lengths.zero_()
        cache.extent = self._lengths[row] = len(ids)
        with self._autocast:
            hidden = self._model.hidden(torch.tensor([list(ids)], device=self._device), cache)
            return self._model.head(hidden[0, -1]).float()

    @torch.no_grad()
    def step(self, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See `Decoder.step`."""
        n_rows = max(rows) + 1
        cache = self._cache.rows(0, n_rows)
        # Rows that have no id read a 0 behind what they hold, where their next id will be.
        last = self._model.config.block_size - 1
        cache.lengths.copy_(torch.tensor([min(length, last) for length in self._lengths[:n_rows]]))
        cache.extent = max(self._lengths[row] for row in rows) + 1
        idx = torch.zeros(n_rows, 1, dtype=torch.int64)
        idx[list(rows), 0] = torch.tensor(list(ids))
        for row in rows:
            self._lengths[row] += 1
        with self._autocast:
            hidden = self._model.hidden(idx.to(self._device), cache)
            return self._model.head(hidden[list(rows), -1]).float()
