"""What concerns one start of a run, and is not stored with it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """How to start: from a file, from a checkpoint, or not at all."""

    config: Path | None = None
    """TOML file of further values, by the names listed here."""
    resume: bool = False
    """Go on from the newest checkpoint of --out, or of the newest run, exactly where it was."""
    dry_run: bool = False
    """Print what the run would take, in memory and at least in time; train nothing."""
    card: str | None = None
    """With --dry-run, the GPU to estimate for, such as "RTX 4070". Default: this machine."""

    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several processes (torchrun): "ddp" copies the model to each, "fsdp" slices weights and
    moments over them. "auto" takes ddp where it fits into memory."""
    rank_timeout: float = 600.0
    """With several processes: seconds to wait for one that does not answer, then it is named."""

    profile: int | None = None
    """Profile so many steps, after three: a trace for Perfetto or Chrome and a table by op, beside
    the roofline's, in profile/ of the run's directory."""
    memory_snapshot: bool = False
    """Record every allocation on the GPU in memory.pickle, for pytorch.org/memory_viz."""

    decay_now: int | None = None
    """With --resume and wsd: decay over this many steps from the newest checkpoint on, and end."""

    def __post_init__(self) -> None:
        if not 0 < self.rank_timeout < math.inf:
            raise InputError(f"rank_timeout must be above 0 seconds, got {self.rank_timeout:g}")
        if self.card and not self.dry_run:
            raise InputError("--card names a GPU to estimate for, which only --dry-run does")
        if self.profile is not None and self.profile < 1:
            raise InputError(f"profile must be at least 1 step, got {self.profile}")
        if self.decay_now is not None:
            if not self.resume:
                raise InputError("--decay-now ends a run that is there; give --resume --out RUN")
            if self.decay_now < 1:
                raise InputError(f"decay_now must be at least 1 step, got {self.decay_now}")
