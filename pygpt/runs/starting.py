"""`train --init-from`: a run that starts with the weights of another model."""

from __future__ import annotations

import dataclasses
import logging

import torch

from pygpt.config import TrainConfig
from pygpt.config.other_trainers import init_from_hint
from pygpt.hub import huggingface
from pygpt.model import GPT
from pygpt.runs.models import locate
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


def adopt_shape(config: TrainConfig) -> TrainConfig:
    """The configuration with the shape of the model it starts from; block_size may be shorter.

    Raises:
        InputError: there is no such model, or pygpt does not run it.
    """
    if config.init_from is None:
        return config
    elsewhere = init_from_hint(config.init_from)
    if elsewhere:
        raise InputError(elsewhere)
    shape, _ = huggingface.read_config(locate(config.init_from))
    adopted = dataclasses.replace(
        config,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        bias=shape.bias,
        block_size=min(config.block_size, shape.block_size),
    )
    logger.info(
        "starting from %s: %d layers, %d heads, %d wide, context %d",
        config.init_from,
        adopted.n_layer,
        adopted.n_head,
        adopted.n_embd,
        adopted.block_size,
    )
    return adopted


@torch.no_grad()
def copy_weights(model: GPT, name: str, tokenizer: TokenizerInfo) -> None:
    """Start `model` with the weights of another one of its shape.

    Positions beyond block_size are left out. Rows of the embedding whose ids the other model's
    tokenizer lacks are padding, or the special tokens of a chat template. They get the mean of its
    rows: GPT-2's logits are far below 0, so that rows of zeros would take nearly all of the
    probability.

    Raises:
        InputError: the model can't be loaded, or it has another tokenizer than the dataset.
    """
    source, info = huggingface.load(locate(name), impl="eager")
    if not (tokenizer.extends(info) or info.extends(tokenizer)):
        raise InputError(
            f"{name} has the tokenizer {info.name!r}, and the dataset holds ids of "
            f"{tokenizer.name!r}; prepare the text with --tokenizer {info.name}"
        )
    state = source.state_dict()
    state["wpe.weight"] = state["wpe.weight"][: model.config.block_size]
    n_shared = min(info.n_vocab, tokenizer.n_vocab)
    rows = state["wte.weight"][: len(model.wte.weight) if info == tokenizer else n_shared]
    for parameter_name, parameter in model.state_dict().items():
        if parameter_name != "wte.weight":
            parameter.copy_(state[parameter_name])
    table = model.wte.weight
    table[: len(rows)] = rows.to(table)
    if len(rows) < len(table):
        table[len(rows) :] = rows[: info.n_vocab].mean(dim=0).to(table)
