"""Hugging Face's GPT-2 layout, out and in: a ``config.json`` and the tensors of a state dict.

Hugging Face stores the four linear layers of a block as (in, out), ours are (out, in), and it has
no GPT-2 without biases: ours are written as zeros and, by the entry "pygpt" in the configuration,
left out again when read.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations, launch_table
from pygpt.tokenizers.base import get_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
PREFIX = "transformer."
_TRANSPOSED = ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight")
# Fields of a GPT-2 configuration in which a variant differs from GPT-2 itself, which is what runs
# here. A missing field is GPT-2's.
_REQUIRED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "n_inner": (None,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}


def to_config(model: GPT, tokenizer: TokenizerInfo) -> dict[str, Any]:
    """The ``config.json`` under which `transformers` loads the model."""
    config = model.config
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "torch_dtype": "float32",
        "pygpt": {
            "bias": config.bias,
            "impl": str(model.impl),
            "launch_table": launch_table(model.impl),
            "tokenizer": dataclasses.asdict(tokenizer),
        },
    }


def to_generation_config(config: GPTConfig, tokenizer: TokenizerInfo) -> dict[str, Any]:
    """The ``generation_config.json``: as here, an id that is only padding is never sampled."""
    padding = list(range(tokenizer.n_vocab, config.vocab_size))
    return {
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        **({"suppress_tokens": padding} if padding else {}),
    }


def to_tensors(model: GPT) -> dict[str, Tensor]:
    """The ``model.safetensors``: fp32, on the CPU, in Hugging Face's names and orientation."""
    tensors = {}
    for name, value in model.state_dict().items():
        tensor = value.detach().float().cpu()
        tensors[PREFIX + name] = tensor.t().contiguous() if name.endswith(_TRANSPOSED) else tensor
    if not model.config.bias:
        tensors.update(_zero_biases(model.config))
    return tensors


def _zero_biases(config: GPTConfig) -> dict[str, Tensor]:
    c = config.n_embd
    sizes = {
        "ln_1": c, "attn.c_attn": 3 * c, "attn.c_proj": c,
        "ln_2": c, "mlp.c_fc": 4 * c, "mlp.c_proj": c,
    }  # fmt: skip
    names = {
        f"{PREFIX}h.{layer}.{name}.bias": size
        for layer in range(config.n_layer)
        for name, size in sizes.items()
    }
    return {name: torch.zeros(size) for name, size in {**names, f"{PREFIX}ln_f.bias": c}.items()}


def load(
    directory: Path, device: torch.device = CPU, *, impl: str = "auto"
) -> tuple[GPT, TokenizerInfo]:
    """Build the model of a directory in Hugging Face's GPT-2 layout, in fp32.

    Args:
        directory: holds ``config.json`` and ``model.safetensors``.
        device: where the model goes.
        impl: implementations of the ops; see `pygpt.ops`.

    Raises:
        InputError: a missing or damaged file, a model that is not a GPT-2, tensors that don't fit
            the configuration, or an implementation that can't run it on this device.
    """
    fields = _read_config(directory)
    config, tokenizer = _from_config(directory, fields)
    used = dataclasses.replace(config, dropout=0.0)  # only training drops
    chosen = Implementations.parse(impl).resolve(device, used)
    with torch.device("meta"):  # no time is spent on initial weights that are replaced at once
        model = GPT(config, chosen)
    model.load_state_dict(_from_tensors(directory, model), assign=True)
    return model.to(device), tokenizer


def stored_launch_table(directory: Path) -> str | None:
    """The launch table that a checkpoint's kernels took; None where it had no Triton kernels."""
    table: str | None = (_read_config(directory).get("pygpt") or {}).get("launch_table")
    return table


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{directory} holds no model: can't read {path.name} ({error.strerror}); give a run, a "
            "checkpoint, or a directory in Hugging Face's GPT-2 layout"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no JSON object, but {fields!r:.40}")
    for name, accepted in _REQUIRED.items():
        if fields.get(name, accepted[0]) not in accepted:
            raise InputError(
                f"{path}: {name} = {fields[name]!r}; only GPT-2's own, {accepted[0]!r}, runs here"
            )
    return fields


def _from_config(directory: Path, fields: dict[str, Any]) -> tuple[GPTConfig, TokenizerInfo]:
    ours = fields.get("pygpt") or {}
    try:
        config = GPTConfig(
            block_size=fields["n_positions"],
            vocab_size=fields["vocab_size"],
            n_layer=fields["n_layer"],
            n_head=fields["n_head"],
            n_embd=fields["n_embd"],
            dropout=fields.get("resid_pdrop", 0.1),
            bias=ours.get("bias", True),
        )
        if "tokenizer" in ours:
            return config, TokenizerInfo(**ours["tokenizer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{directory / 'config.json'} lacks a field or has a wrong one: {error}"
        ) from error
    gpt2 = get_tokenizer("gpt2").info
    if not gpt2.n_vocab <= config.vocab_size < gpt2.n_vocab + 128:
        raise InputError(
            f"{directory} names no tokenizer, and its {config.vocab_size} ids are not GPT-2's "
            f"{gpt2.n_vocab}"
        )
    logger.info("%s names no tokenizer: taken as GPT-2's by its vocabulary", directory)
    return config, gpt2


def _from_tensors(directory: Path, model: GPT) -> dict[str, Tensor]:
    """The state dict for `model`, checked name by name and shape by shape."""
    path = directory / "model.safetensors"
    if not path.exists():
        raise InputError(_describe_missing(path))
    stored = read_tensors(path)
    # OpenAI's weights, as first published, have no prefix, and carry the causal masks.
    stored = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    state = {}
    for name, parameter in model.state_dict().items():
        tensor = stored.get(name)
        if tensor is None:
            raise InputError(f"{path} lacks the tensor {name}")
        tensor = tensor.t() if name.endswith(_TRANSPOSED) else tensor
        if tensor.shape != parameter.shape:
            raise InputError(
                f"{path}: {name} is {tuple(tensor.shape)}, and by "
                f"config.json it is {tuple(parameter.shape)}"
            )
        state[name] = tensor.float().contiguous()
    return state


def _describe_missing(path: Path) -> str:
    if path.with_name(f"{path.name}.index.json").exists():
        return (
            f"{path.parent} holds a model in several files, and one is read here: save it with "
            'transformers\' save_pretrained(…, max_shard_size="100GB")'
        )
    return (
        f"{path} does not exist; weights are read from safetensors alone, since the older "
        "pytorch_model.bin is a pickle: save the model with transformers' save_pretrained"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
