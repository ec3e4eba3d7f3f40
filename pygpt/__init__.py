"""pygpt: train, judge and use a GPT-2-class model on one card, with kernels one can read."""

from pathlib import Path

try:
    import pygpt._C  # noqa: F401 - said here, once, if it is missing
except ModuleNotFoundError as error:
    raise ImportError(
        f"the compiled core pygpt._C is not in {Path(__file__).parent}. In a source folder, run "
        "`pip install -e .` there. If pygpt is installed elsewhere, this folder hides it: start "
        "Python from another directory"
    ) from error

from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.runs.models import load
from pygpt.utils.errors import InputError

__all__ = ["GPT", "GPTConfig", "InputError", "load"]
