"""pygpt: train, judge and use a GPT-2-class model on one card, with kernels one can read."""

from pygpt.config import GPTConfig
from pygpt.errors import InputError
from pygpt.model import GPT

__all__ = ["GPT", "GPTConfig", "InputError"]
