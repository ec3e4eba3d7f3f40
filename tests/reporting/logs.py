"""Logs for the tests: a run that is healthy in every respect, with one fault or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[np.float64]]
STEPS = 2000
BATCH = 65536
VOCABULARY = 50304

CONFIG = f"""batch_size = 16
block_size = 1024
gradient_accumulation_steps = 4
n_layer = 6
n_head = 6
n_embd = 384
max_iters = {STEPS}
"""


def healthy(seed: int, steps: int = STEPS) -> Columns:
    """A cosine schedule, a power law with noise, a steady pace."""
    random = np.random.default_rng(seed)
    step = np.arange(steps + 1, dtype=float)
    part = np.clip((step - 100) / (steps - 100), 0, 1)
    lr = np.where(step < 100, 6e-4 * (step + 1) / 101, 6e-5 + 2.7e-4 * (1 + np.cos(np.pi * part)))
    loss = 3.6 + 7.3 * (1 + step / 25) ** -0.7
    return {
        "step": step,
        "train_loss": loss + random.normal(0, 0.03, len(step)) * (step > 0),
        "val_loss": np.where(step % 100 == 0, loss + 0.01, np.nan),
        "lr": lr,
        "grad_norm": 0.4 + random.gamma(4, 0.02, len(step)),
        "seconds": 0.5 + random.gamma(2, 0.005, len(step)),
    }


def _spike(log: Columns) -> None:
    log["train_loss"][1200:1230] += 2.5 * np.exp(-np.arange(30) / 8)
    log["grad_norm"][1200:1205] *= 20


def _divergence(log: Columns) -> None:
    rise = np.linspace(0, 2.5, 600)
    log["train_loss"][-600:] += rise
    log["val_loss"][-600:] += rise


def _overfitting(log: Columns) -> None:
    log["val_loss"][-1000:] += np.linspace(0, 0.6, 1000)


def _no_decay(log: Columns) -> None:
    log["lr"][100:] = 6e-4


def _smaller_batch(log: Columns) -> None:
    noise = log["train_loss"] - (3.6 + 7.3 * (1 + log["step"] / 25) ** -0.7)
    log["train_loss"][1000:] += 3 * noise[1000:]


def _stalled_loader(log: Columns) -> None:
    log["seconds"][500::12] += 4


def _wrong_vocabulary(log: Columns) -> None:
    log["train_loss"][0] = log["val_loss"][0] = np.log(256) + 0.05


def _nan(log: Columns) -> None:
    log["train_loss"][1900:] = np.nan
    log["val_loss"][1900:] = np.nan


def _clock(log: Columns) -> None:
    log["seconds"][700] = 5 * 3600


FAULTS: dict[str, Callable[[Columns], None]] = {
    "spikes": _spike,
    "divergence": _divergence,
    "overfitting": _overfitting,
    "schedule": _no_decay,
    "batch": _smaller_batch,
    "stalls": _stalled_loader,
    "first_loss": _wrong_vocabulary,
    "finite": _nan,
    "clock": _clock,
}
"""The finding's id → what makes a healthy log have it."""


def write_csv(path: Path, log: Columns) -> Path:
    """The log as a table; cells that are NaN are empty, except for the training loss."""
    names = list(log)
    lines = [",".join(names)]
    for row in zip(*log.values(), strict=True):
        cells = [
            "" if np.isnan(value) and name == "val_loss" else f"{value:.7g}"
            for name, value in zip(names, row, strict=True)
        ]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
