"""nanoGPT's model and optimiser, from a checkout of it: what pygpt is measured beside."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import torch

from pygpt.config import GPTConfig, TrainConfig


def build(
    checkout: Path, model: GPTConfig, train: TrainConfig, device: torch.device
) -> tuple[Any, torch.optim.Optimizer]:
    """Its model of this shape, and its AdamW of this rate.

    Raises:
        SystemExit: `checkout` is none.
    """
    module = _module(checkout)
    names = inspect.signature(module.GPTConfig).parameters
    arguments = {name: getattr(model, name) for name in names}
    betas = (train.beta1, train.beta2)
    with contextlib.redirect_stdout(sys.stderr):  # it prints as it builds
        built = module.GPT(module.GPTConfig(**arguments)).to(device)
        optimizer = built.configure_optimizers(
            train.weight_decay, train.learning_rate, betas, device.type
        )
    return built, optimizer


def check(checkout: Path) -> None:
    """Leave with a message unless `checkout` is one.

    Raises:
        SystemExit: it is none.
    """
    if not (checkout / "model.py").exists():
        sys.exit(f"{checkout} is no checkout of nanoGPT: it has no model.py")


def _module(checkout: Path) -> Any:
    check(checkout)
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module
