"""What a model and a run are: `GPTConfig`, `TrainConfig`, the presets, and TOML files of them.

Names are imported when they are first used: a model does not need the library that reads flags.
"""

from typing import TYPE_CHECKING

from pygpt.utils.lazy import lazy_exports

if TYPE_CHECKING:
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

__getattr__, __dir__, _ = lazy_exports(
    __name__,
    {
        "GPTConfig": "pygpt.config.gpt",
        "StartOptions": "pygpt.config.start",
        "TrainConfig": "pygpt.config.train",
        "from_preset": "pygpt.config.recipes",
        "padded_vocab_size": "pygpt.config.gpt",
        "preset_names": "pygpt.config.recipes",
    },
)
