"""Whether torch.compile pays back within a run: what `compile = "auto"` decides, at the start."""

from __future__ import annotations

import dataclasses
import logging

from pygpt.config import GPTConfig, TrainConfig
from pygpt.utils.format import duration

logger = logging.getLogger(__name__)

# Measured on two cores, forward and backward: 22 s to compile 4 layers and 24 s for 6. Steps were
# then 4 % shorter at 384 wide, 15 % at 128. On a GPU these are assumptions.
_SECONDS = {"cpu": 17.0, "cuda": 20.0}
_SECONDS_PER_LAYER = {"cpu": 1.2, "cuda": 2.0}
_GAIN = {"cpu": 0.04, "cuda": 0.05}

_MFU = 0.4
"""What a step is taken to reach of the peak rate, to guess how long the run is."""


def decided(config: TrainConfig, model: GPTConfig, device_type: str, flops: float) -> TrainConfig:
    """The run with `compile` true or false; where that was "auto", a line in the log says why.

    Args:
        config: the run.
        model: its model.
        device_type: "cpu" or "cuda"; for others no gain is known.
        flops: peak rate of the GEMMs, operations per second.
    """
    if config.compile != "auto":
        return config
    takes = _SECONDS.get(device_type, 0.0)
    takes += _SECONDS_PER_LAYER.get(device_type, 0.0) * model.n_layer
    operations = config.max_steps * config.batch_tokens * model.flops_per_token()
    saves = _GAIN.get(device_type, 0.0) * operations / (_MFU * flops)
    pays = saves > takes
    logger.info(
        "torch.compile would take about %s and save about %s of this run: it is %s",
        duration(takes),
        duration(saves),
        "on" if pays else "off",
    )
    return dataclasses.replace(config, compile=pays)
