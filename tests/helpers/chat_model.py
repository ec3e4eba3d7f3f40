"""Tiny models with the chat template, for the terminal and the server."""

from __future__ import annotations

from pathlib import Path

import torch

from pygpt import GPT, GPTConfig
from pygpt.config import TrainConfig
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.training.optimizer import build_optimizer

TOKENIZER = chat_tokenizer(get_tokenizer("bytes"))
CONFIG = GPTConfig(block_size=64, vocab_size=320, n_layer=1, n_head=1, n_embd=8)


def writes(index: int, config: GPTConfig = CONFIG) -> GPT:
    """A model that always writes one id."""
    model = GPT(config).eval()
    with torch.no_grad():
        model.ln_f.weight.zero_()
        assert model.ln_f.bias is not None
        model.ln_f.bias.fill_(1.0)
        model.wte.weight[index] = 10.0
    return model


def save_run(path: Path, model: GPT, info: TokenizerInfo = TOKENIZER.info) -> Run:
    """A run whose newest checkpoint is this model."""
    run = Run(path)
    run.open(TrainConfig(), torch.device("cpu"), 0)
    optimizer = build_optimizer(model, TrainConfig())
    checkpoint.save(run.checkpoints, model, optimizer, info, checkpoint.TrainerState(1, None))
    return run
