"""pygpt: train, judge and use a GPT-2-class model on one GPU, with kernels one can read.

`load` gives a model and its tokenizer, and `generate` continues prompts with them. `GPT` and
`GPTConfig` are the model, `InputError` is what invalid input raises. Names are imported when they
are first used, so that ``import pygpt`` does not wait for torch. docs/library.md has examples.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pygpt.utils.lazy import lazy_exports

try:
    import pygpt._C  # noqa: F401 - a missing extension is reported here, once
except ModuleNotFoundError as error:
    raise ImportError(
        f"the compiled core pygpt._C is not in {Path(__file__).parent}. In a source folder, run "
        "`pip install -e .` there. If pygpt is installed elsewhere, this folder hides it: start "
        "Python from another directory"
    ) from error

if TYPE_CHECKING:
    from pygpt.config import GPTConfig
    from pygpt.inference.generation import generate
    from pygpt.model import GPT
    from pygpt.runs.models import load
    from pygpt.utils.errors import InputError

__all__ = ["GPT", "GPTConfig", "InputError", "generate", "load"]

__getattr__, __dir__, _ = lazy_exports(
    __name__,
    {
        "GPT": "pygpt.model",
        "GPTConfig": "pygpt.config",
        "InputError": "pygpt.utils.errors",
        "generate": "pygpt.inference.generation",
        "load": "pygpt.runs.models",
    },
)
