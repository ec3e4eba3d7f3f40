"""A model directory in Hugging Face's GPT-2 layout: loading it, and what a checkpoint writes.

The layout itself, as pure functions, is `pygpt.hub.layout`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pygpt.config import GPTConfig
from pygpt.hub import layout
from pygpt.hub.stored import StoredTensors
from pygpt.hub.tokenizer_files import identify, tokenizer_files
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations, launch_table
from pygpt.tokenizers.base import load_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import read_object

CPU = torch.device("cpu")


def to_config(model: GPT, tokenizer: TokenizerInfo) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint."""
    stored = {"impl": str(model.impl), "launch_table": launch_table(model.impl)}
    return layout.to_config(model.config, tokenizer, stored)


def describing_files(model: GPT, tokenizer: TokenizerInfo) -> dict[str, str]:
    """File name → content of all that a model directory holds beside its weights.

    Raises:
        InputError: this installation has no such tokenizer.
    """
    block_size = model.config.block_size
    return {
        "config.json": json_text(to_config(model, tokenizer)),
        "generation_config.json": json_text(layout.to_generation_config(model.config, tokenizer)),
        **tokenizer_files(load_tokenizer(tokenizer), block_size),
    }


def json_text(fields: dict[str, Any]) -> str:
    """A JSON object as the text of a file."""
    return json.dumps(fields, indent=2) + "\n"


def to_tensors(model: GPT) -> dict[str, Tensor]:
    """The ``model.safetensors`` of a checkpoint: fp32, on the CPU, contiguous."""
    tensors = layout.to_hf(model.state_dict(), model.config)
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def load(
    directory: Path, device: torch.device = CPU, *, impl: str = "auto"
) -> tuple[GPT, TokenizerInfo]:
    """Build the model of a directory in fp32, with at most 1.2 × its weights in memory.

    Args:
        directory: holds ``config.json`` and the weights in safetensors, in one file or several.
        device: where the model goes.
        impl: implementations of the ops; see `pygpt.ops`.

    Raises:
        InputError: a missing or damaged file, a model that is not a GPT-2 or a variant that pygpt
            does not run, tensors that don't fit the configuration, NaN in a tensor, or an
            implementation that can't run on this device.
    """
    config, tokenizer = read_config(directory)
    stored = StoredTensors.of_directory(directory)
    _match(directory, stored, config)  # before memory is asked for what config.json says
    used = dataclasses.replace(config, dropout=0.0)  # only training drops
    chosen = Implementations.parse(impl).resolve(device, used)
    with torch.device("meta"):  # no initial weights: they would be replaced at once
        model = GPT(config, chosen)
    model.to_empty(device=device)
    load_into(model, directory)
    return model, tokenizer


@torch.no_grad()
def load_into(model: GPT, directory: Path) -> None:
    """Copy the weights of a directory into the parameters of `model`, one tensor at a time.

    Parameters keep their dtype and device.

    Raises:
        InputError: a missing or damaged file, tensors that are missing, unexpected or of another
            shape (all are listed), integer weights, NaN or infinite weights, or a head of its own.
    """
    stored = StoredTensors.of_directory(directory)
    state = model.state_dict()
    names = _match(directory, stored, model.config)
    try:
        for name, target in layout.to_hf(state, model.config).items():
            if name in state:
                stored.copy_into(names[name], target)
                check_finite(names[name], target)
            elif not stored.equal(names[name], target):
                raise InputError(layout.describe_unexpected_bias(names[name]))
        if layout.HEAD in names and not stored.equal(names[layout.HEAD], state["wte.weight"]):
            raise InputError(layout.describe_untied_head())
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def _match(directory: Path, stored: StoredTensors, config: GPTConfig) -> dict[str, str]:
    try:
        return layout.match({name: stored.shape(name) for name in stored.names()}, config)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse a tensor with values that are NaN or infinite.

    Raises:
        InputError: with how many there are.
    """
    if tensor.sum().isfinite():  # one pass without a temporary; finite values may overflow it
        return
    n = int((~tensor.isfinite()).sum())
    if n:
        raise InputError(
            f"{name} has {n:,} values of {tensor.numel():,} that are NaN or infinite; the model "
            "diverged or the file is damaged: take an older checkpoint"
        )


def read_config(directory: Path) -> tuple[GPTConfig, TokenizerInfo]:
    """The shape and the tokenizer of a model directory.

    Raises:
        InputError: see `pygpt.hub.layout.from_config`; or the tokenizer is none of pygpt's, or has
            ids that the model does not.
    """
    fields = _read_fields(directory)
    try:
        config, tokenizer = layout.from_config(fields)
    except InputError as error:
        raise type(error)(f"{directory / 'config.json'}: {error}") from error
    if tokenizer and tokenizer.n_vocab > config.vocab_size:
        raise InputError(
            f"{directory / 'config.json'}: the tokenizer {tokenizer.name} has {tokenizer.n_vocab} "
            f"ids, and vocab_size is {config.vocab_size}: the file is damaged, or one of the two "
            "belongs to another model"
        )
    return config, tokenizer or identify(directory, config.vocab_size)


def stored_launch_table(directory: Path) -> str | None:
    """The launch table that a checkpoint's kernels took; None where it had no Triton kernels."""
    ours = _read_fields(directory).get("pygpt")
    table = ours.get("launch_table") if isinstance(ours, dict) else None
    return table if isinstance(table, str) else None


def _read_fields(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.exists():
        raise InputError(
            f"{directory} holds no model: there is no {path.name}; give a run, a checkpoint, or a "
            "directory in Hugging Face's GPT-2 layout"
        )
    return read_object(path)
