"""What a run is: the model's shape, the training configuration, and the presets."""

from pygpt.config.train import PRESETS, GPTConfig, TrainConfig, from_preset

__all__ = ["PRESETS", "GPTConfig", "TrainConfig", "from_preset"]
