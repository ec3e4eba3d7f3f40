"""Updating a model's weights: the optimizer, its parameter groups, clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pygpt.config import TrainConfig
from pygpt.model import GPT
from pygpt.training.muon import MuonWithAdamW


class Updater:
    """Updates the weights of a model on its device.

    `pygpt.training.offload.OffloadedUpdater` updates a copy of them on the host.

    Args:
        model: on the device to train on.
        config: the run.

    Attributes:
        weights: fp32 weights that are updated, and that a checkpoint holds.
        optimizer: of the parameters of `weights`.
    """

    def __init__(self, model: GPT, config: TrainConfig) -> None:
        self.weights = model
        self.optimizer = build_optimizer(model, config)
        device = model.wte.weight.device.type
        self._scaler = torch.amp.GradScaler(device) if config.dtype == "float16" else None

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients; with float16 those of the scaled loss (Micikevicius et al. 2018,
        arXiv:1710.03740, section 3.2).
        """
        scaled = self._scaler.scale(loss) if self._scaler else loss
        scaled.backward()  # type: ignore[no-untyped-call]

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm of `max_norm`; 0 leaves them as they are.

        Returns:
            The norm before, a scalar on the device. With float16 it is not finite where a scaled
            gradient overflowed.
        """
        if self._scaler:
            self._scaler.unscale_(self.optimizer)
        return clip_gradients(self.weights.parameters(), max_norm)

    def step(self, lr: float) -> None:
        """Update the weights. It allocates next to nothing: memory is needed by the backward.

        With float16 it does nothing where a gradient overflowed, and the scale is halved.
        """
        set_learning_rate(self.optimizer, lr)
        if self._scaler:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()

    @property
    def scaling(self) -> dict[str, float] | None:
        """State of the loss scaling of float16, for a checkpoint; None for other dtypes."""
        return self._scaler.state_dict() if self._scaler else None

    def restore_scaling(self, state: dict[str, float] | None) -> None:
        """Go on with a stored state of the loss scaling; one that is None starts again."""
        if self._scaler and state:
            self._scaler.load_state_dict(state)

    def zero_grad(self) -> None:
        """Reset the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def sync_to_model(self) -> None:
        """Copy `weights` into the model, after they were loaded; nothing to do where it is it."""

    def release(self) -> None:
        """Leave the model its fp32 weights and free the rest: training is over."""
        self.zero_grad()


def build_optimizer(model: GPT, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names."""
    return MuonWithAdamW(model, config) if config.optimizer == "muon" else _adamw(model, config)


def _adamw(model: GPT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused, without decay of vectors: biases and norms.

    The moments are allocated here, not in the first step: if one step fits into memory, all do.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )
    for parameter in parameters:
        adamw.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adamw


def clip_gradients(parameters: Iterable[nn.Parameter], grad_clip: float) -> Tensor:
    """Scale the gradients down to a norm of `grad_clip` over all (0: don't); the norm before.

    Gradients that are sliced over ranks (FSDP) count whole.
    """
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if grad_clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    return whole(norm)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the slices of all ranks, where this one has a slice (a DTensor, of FSDP)."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step, in all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
