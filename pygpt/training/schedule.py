"""The learning rate of each step."""

from __future__ import annotations

import dataclasses
import logging
import math

from pygpt.config import TrainConfig

logger = logging.getLogger(__name__)


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


def announce_schedule(config: TrainConfig, step: int) -> None:
    """Log it where the schedule may surprise: no decay at all, or a low rate for many steps."""
    end = config.lr_decay_steps or config.max_steps
    if config.warmup_steps >= end:
        logger.warning(
            "warmup_steps=%d is not below the %d steps of the decay: the rate rises to the end and "
            "never decays; --warmup-steps %d is a tenth",
            config.warmup_steps,
            end,
            end // 10,
        )
    elif step and config.max_steps > end:
        longer = dataclasses.replace(config, lr_decay_steps=config.max_steps)
        logger.info(
            "the rate stays at %g from step %d on; with --lr-decay-steps %d it would be %g at the "
            "next step, not %g: a rate that is raised makes the loss worse for a while",
            config.min_lr,
            config.lr_decay_steps,
            config.max_steps,
            learning_rate(step, longer),
            learning_rate(step, config),
        )
