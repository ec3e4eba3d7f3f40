"""The learning rate of every step: as the log has it, else as the configuration says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pygpt.reporting.runlog import Facts, Floats, RunLog
from pygpt.utils.errors import InputError

MOST_STEPS = 20_000_000
"""Of a run: a schedule is an array with a rate for each. A longer one is a damaged number."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rates of steps 0, 1, 2 … of a run."""

    rate: Floats
    source: str
    """"log" or "configuration"."""
    logged: int
    """Steps up to which the log has them; beyond it is the configuration."""

    @property
    def warmup(self) -> int:
        """The step that first has the highest rate."""
        return int(np.argmax(self.rate >= 0.999 * self.rate.max()))

    @property
    def decays(self) -> bool:
        """Whether the rate ends below 90 % of its peak."""
        return bool(self.rate[-1] < 0.9 * self.rate.max())

    def decayed(self, step: int) -> float:
        """Share of the whole decay that is done at `step`."""
        peak, end = float(self.rate.max()), float(self.rate[-1])
        at = float(self.rate[min(step, len(self.rate) - 1)])
        return (peak - at) / (peak - end) if peak > end and step > self.warmup else 0.0

    def stretched(self, steps: int) -> Schedule:
        """The same shape over `steps` steps, with a warm-up of the same length."""
        warmup, old = self.warmup, len(self.rate) - 1
        after = np.linspace(warmup, old, steps - warmup + 1)
        tail = np.interp(after, np.arange(old + 1), self.rate)
        return dataclasses.replace(self, rate=np.concatenate([self.rate[:warmup], tail]))


def configured(facts: Facts, steps: int) -> Floats | None:
    """Rates of steps 0 to `steps` by the configuration; None where it is not known.

    Linear warm-up, then down to min_lr at lr_decay_steps: along a cosine as in nanoGPT, linearly,
    or linearly from decay_from on. None too where that step is not known.
    """
    if facts.learning_rate is None or facts.schedule is None:
        return None
    if facts.schedule == "wsd" and facts.decay_from is None:
        return None
    step = np.arange(steps + 1, dtype=np.float64)
    warmup = facts.warmup_steps or 0
    peak, end = facts.learning_rate, facts.min_lr or 0.0
    length = facts.lr_decay_steps or facts.max_steps or steps
    rising = peak * (step + 1) / (warmup + 1)
    start = max(warmup, facts.decay_from or 0)
    part = np.clip((step - start) / max(1, length - start), 0, 1)
    fall = {
        "cosine": 0.5 * (1 + np.cos(math.pi * part)),
        "linear": 1 - part,
        "wsd": 1 - part,
        "constant": np.ones_like(part),
    }[facts.schedule]
    return np.where(step < warmup, rising, end + (peak - end) * fall)


def schedule_of(log: RunLog) -> Schedule | None:
    """The schedule up to the run's planned end; None where neither log nor configuration has it.

    Raises:
        InputError: the log or its configuration has a step beyond `MOST_STEPS`.
    """
    planned = max(log.facts.max_steps or 0, log.last_step)
    if planned > MOST_STEPS:
        raise InputError(
            f"{log.path} has step {planned:,}, and a report is made of at most {MOST_STEPS:,}: the "
            "file is damaged, or a number in it is not a step"
        )
    plan = configured(log.facts, planned)
    if not log.train.has("lr"):
        return None if plan is None else Schedule(plan, "configuration", 0)
    step, lr = log.train.known("lr")
    last = int(step[-1])
    rate = np.interp(np.arange(last + 1), step, lr)
    if plan is not None and planned > last:
        rate = np.concatenate([rate, plan[last + 1 :]])
    return Schedule(rate, "log", last)
