"""AdamW over a model's weights: its parameter groups, its step, the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pygpt.config import TrainConfig
from pygpt.model import GPT


class Updater:
    """AdamW over the model's own weights, where they are.

    In `pygpt.training.offload.OffloadedUpdater`, the other one, the weights that are updated are
    not those that the model computes with.

    Args:
        model: on the device to train on.
        config: the run.

    Attributes:
        weights: what AdamW updates and a checkpoint holds, in fp32.
        adamw: AdamW over `weights`.
    """

    def __init__(self, model: GPT, config: TrainConfig) -> None:
        self.weights = model
        self.adamw = build_optimizer(model, config)
        self._grad_clip = config.grad_clip

    def step(self, lr: float) -> Tensor:
        """Clip the gradients, update the weights and forget the gradients.

        It allocates next to nothing: a step whose backward fitted into memory is done.

        Args:
            lr: the learning rate of this step.

        Returns:
            The norm of the gradients before clipping, a scalar on the device.
        """
        norm = clip_gradients(self.weights.parameters(), self._grad_clip)
        set_learning_rate(self.adamw, lr)
        self.adamw.step()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def publish(self) -> None:
        """Let the model compute with `weights`, after they were set from outside."""

    def release(self) -> None:
        """Leave the model its fp32 weights and nothing else: there will be no further step."""
        self.zero_grad()


def build_optimizer(model: GPT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused, with no decay on vectors: biases and norms.

    Its moments are there from the start and not from the first step on, so that a first step that
    fits into memory says that all do.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )
    for parameter in parameters:
        adamw.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adamw


def clip_gradients(parameters: Iterable[nn.Parameter], grad_clip: float) -> Tensor:
    """Scale the gradients down to a norm of `grad_clip` over all (0: don't); the norm before."""
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if grad_clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    return norm


def set_learning_rate(adamw: torch.optim.AdamW, lr: float) -> None:
    """The rate of the next step, in all groups."""
    for group in adamw.param_groups:
        group["lr"] = lr


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
