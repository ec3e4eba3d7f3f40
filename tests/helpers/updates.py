"""One update, as the trainer does it."""

from torch import Tensor

from pygpt.training.optimizer import Updater


def update(updater: Updater, lr: float) -> Tensor:
    """Clip to GPT-2's norm of 1, step, reset; the norm before clipping."""
    norm = updater.clip_gradients(1.0)
    updater.step(lr)
    updater.zero_grad()
    return norm
