"""What ``python -m pygpt.tune`` measures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from pygpt.config.gpt import GPTConfig
from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """Measure launch configurations on this GPU and store those that win.

    The table is read by every command whose environment variable PYGPT_LAUNCH_TABLE names it; use
    it from a run's first step on, or not at all. Give the shapes of your model and micro-batch.
    """

    head_size: int = 64
    """n_embd / n_head."""
    width: int = 768
    """n_embd."""
    vocab: int = GPTConfig.vocab_size
    """Rows of the embedding table."""
    positions: int = 1024
    """block_size."""
    batch: int = 8
    """Sequences in a micro-batch."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seconds: float = math.inf
    """Stop after about this long, shared out among the kernels; by default everything is tried."""
    out: Path | None = None
    """The table to write; by default launch-<GPU>.json in pygpt's cache directory."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InputError(f"--seconds {self.seconds}: must be above 0")
        for name in ("head_size", "width", "vocab", "positions", "batch"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} must be above 0, not {getattr(self, name)}"
                )
        if self.width % self.head_size:
            raise InputError(
                f"--width {self.width} is not a multiple of --head-size {self.head_size}"
            )
