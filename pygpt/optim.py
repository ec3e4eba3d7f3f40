"""AdamW's parameter groups and the learning rate's schedule."""

from __future__ import annotations

import math

import torch

from pygpt.config import TrainConfig
from pygpt.model import GPT


def build_optimizer(model: GPT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused, with no decay on vectors: biases and norms."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (0 is the first): linear warm-up, cosine decay to min_lr.

    Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    end = config.max_steps if config.lr_decay_steps is None else config.lr_decay_steps
    if step >= end:
        return config.min_lr
    progress = (step - config.warmup_steps) / (end - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.min_lr + (config.learning_rate - config.min_lr) * cosine
