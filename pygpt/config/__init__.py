"""What a model and a run are: `GPTConfig`, `TrainConfig`, the presets, and TOML files of them."""

from pygpt.config.gpt import GPTConfig, padded_vocab_size
from pygpt.config.recipes import from_preset, preset_names
from pygpt.config.start import StartOptions
from pygpt.config.train import TrainConfig

__all__ = [
    "GPTConfig",
    "StartOptions",
    "TrainConfig",
    "from_preset",
    "padded_vocab_size",
    "preset_names",
]
