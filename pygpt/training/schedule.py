"""The learning rate and the sequence length of each step."""

from __future__ import annotations

import dataclasses
import logging
import math

from pygpt.config import TrainConfig
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (0 is the first): linear warm-up, then down to min_lr.

    cosine: Loshchilov and Hutter 2017, equation 5, without restarts. wsd, warm-up, stable, decay:
    Hu et al. 2024 (MiniCPM), section 4.2, with a linear decay.
    """
    peak, end = config.learning_rate, decay_end(config)
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if step >= end:
        return config.min_lr
    start = decay_start(config)
    if step <= start:  # also where a run ends before its decay
        return peak
    progress = (step - start) / (end - start)
    if config.schedule == "cosine":
        remaining = (1 + math.cos(math.pi * progress)) / 2
    else:
        remaining = 1 - progress
    return config.min_lr + (peak - config.min_lr) * remaining


def sequence_length(step: int, config: TrainConfig) -> int:
    """Tokens in a sequence of step `step` (0 is the first): short ones first, then block_size
    (Li et al. 2022, arXiv:2108.06084).
    """
    if step >= config.block_warmup_steps:
        return config.block_size
    return config.block_size >> (3 - 3 * step // config.block_warmup_steps)


def decay_start(config: TrainConfig) -> int:
    """The last step at the peak rate, 0 being the first step."""
    if config.schedule != "wsd":
        return config.warmup_steps
    if config.decay_from is not None:
        return max(config.warmup_steps, config.decay_from)
    end = decay_end(config)
    return max(config.warmup_steps, end - max(1, round(config.decay_fraction * end)))


def decay_end(config: TrainConfig) -> int:
    """The first step at min_lr."""
    return config.max_steps if config.lr_decay_steps is None else config.lr_decay_steps


def decay_from_now(config: TrainConfig, step: int, n_steps: int) -> TrainConfig:
    """The run that decays from `step` on, over `n_steps` steps, and ends.

    Raises:
        InputError: it is not in the stable phase of wsd.
    """
    if config.schedule != "wsd":
        raise InputError(
            f"--decay-now needs a run with a stable phase, --schedule wsd; this one is a "
            f"{config.schedule} schedule, which decays to step {decay_end(config)}"
        )
    if not config.warmup_steps <= step <= decay_start(config):
        raise InputError(
            f"--decay-now starts in the stable phase, steps {config.warmup_steps} to "
            f"{decay_start(config)}, and the newest checkpoint is of step {step}"
        )
    end = step + n_steps
    return dataclasses.replace(config, decay_from=step, lr_decay_steps=end, max_steps=end)


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
