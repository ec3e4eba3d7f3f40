"""`compile = "auto"`: whether torch.compile saves more time in a run than it takes."""

from __future__ import annotations

import logging

from pygpt.config import GPTConfig, TrainConfig
from pygpt.utils.format import duration

logger = logging.getLogger(__name__)

# Measured on two CPU cores, forward and backward: 22 s to compile 4 layers, 24 s for 6. Steps were
# 4 % shorter at n_embd 384 and 15 % at 128. The values for a GPU are assumptions.
_SECONDS = {"cpu": 17.0, "cuda": 20.0}
_SECONDS_PER_LAYER = {"cpu": 1.2, "cuda": 2.0}
_GAIN = {"cpu": 0.04, "cuda": 0.05}

_MFU = 0.4
"""Assumed share of the peak rate, for an estimate of the run's length."""


def resolve_compile(config: TrainConfig, model: GPTConfig, device_type: str, flops: float) -> bool:
    """Whether the run is compiled; where `compile` is "auto", the log says why.

    Args:
        config: the run.
        model: its model.
        device_type: "cpu" or "cuda"; for others no gain is known.
        flops: peak rate of the GEMMs, operations per second.
    """
    if config.compile != "auto":
        return config.compile
    seconds = _SECONDS.get(device_type, 0.0)
    seconds += _SECONDS_PER_LAYER.get(device_type, 0.0) * model.n_layer
    operations = config.max_steps * config.batch_tokens * model.flops_per_token()
    saved = _GAIN.get(device_type, 0.0) * operations / (_MFU * flops)
    pays = saved > seconds
    logger.info(
        "torch.compile would take about %s and save about %s of this run: it is %s",
        duration(seconds),
        duration(saved),
        "on" if pays else "off",
    )
    return pays
