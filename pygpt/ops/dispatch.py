"""Which implementation of an op runs: what there is, what "auto" means here, what can't run.

Beside ``eager``, plain PyTorch in `pygpt.ops`, there is

- ``triton``: a kernel of ``pygpt.kernels`` on a GPU (or under ``TRITON_INTERPRET=1`` on a CPU);
- ``native``: C++ of ``pygpt._C`` on a CPU.

Asking for one that can't run is an error that says why; nothing falls back in silence. "auto" takes
eager for what the Triton kernels can't do, an older GPU or a larger head, and says so once.
The native attention has no dropout: where that is asked for, eager runs, with a notice.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
import os

import torch

from pygpt.config import GPTConfig
from pygpt.kernels import common, launch
from pygpt.ops import native
from pygpt.ops.tracing import constant_while_tracing
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

IMPLS = ("eager", "triton", "native")

# What "auto" means: op → where → the implementation that is faster there than eager, which runs
# everywhere else. Where is a device type or, of a CPU, the instruction set of the native ops: one
# at which PyTorch's own op wins is left out.
_FASTEST: dict[str, dict[str, str]] = {
    "attention": {"cuda": "triton", "avx512": "native"},
    "layer_norm": {"cuda": "triton"},
    "gelu": {"cuda": "triton", "avx512": "native", "avx2": "native"},
    "linear_cross_entropy": {
        "cuda": "triton", "avx512": "native", "avx2": "native", "generic": "native"
    },
}  # fmt: skip

# What the implementations take; eager takes everything.
DTYPES = {
    "triton": common.DTYPES,
    "native": native.DTYPES,
}
_LARGEST = {  # what "size" is, of the Triton kernels that have a limit
    "attention": ("head size", launch.HEAD_CLASSES[-1]),
    "layer_norm": ("width", launch.WIDTH_CLASSES[-1]),
}


@dataclasses.dataclass(frozen=True)
class Implementations:
    """The implementation of each op, as a model holds it. ``str()`` gives what `parse` reads."""

    attention: str = "auto"
    layer_norm: str = "auto"
    gelu: str = "auto"
    linear_cross_entropy: str = "auto"

    @classmethod
    def parse(cls, spec: str) -> Implementations:
        """Read ``"triton"`` (every op) or ``"attention=eager,layer_norm=triton"`` (the rest auto).

        Raises:
            InputError: an op or an implementation that does not exist, with those that do.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        chosen: dict[str, str] = {}
        for part in spec.split(","):
            op, equals, impl = (text.strip() for text in part.partition("="))
            if not equals:
                op, impl = "", op
            if op and op not in names:
                raise InputError(f"--impl names no op {op!r}; the ops are {', '.join(names)}")
            if impl not in ("auto", *IMPLS):
                raise InputError(f"--impl {impl!r} is none of auto, {', '.join(IMPLS)}")
            chosen.update(dict.fromkeys([op] if op else names, impl))
        return cls(**chosen)

    def resolve(self, device: torch.device, config: GPTConfig) -> Implementations:
        """Replace every "auto" by what it means for a model on `device`, and check the rest.

        Raises:
            InputError: an op has no such implementation, or it can't run there; see `select`.
        """
        sizes = {"attention": config.n_embd // config.n_head, "layer_norm": config.n_embd}
        chosen = {
            op: select(op, impl, device, sizes.get(op, 0))
            for op, impl in dataclasses.asdict(self).items()
        }
        for op, size in sizes.items():
            if chosen[op] != select(op, getattr(self, op), device):
                warn_once(f"{op}: impl='auto' means eager, since {_too_large(op, size)}")
        if config.dropout and chosen["attention"] == "native":
            notice_dropout()
            chosen["attention"] = "eager"
        if "triton" in chosen.values():
            try:
                launch.describe()
            except (OSError, ValueError) as error:
                raise InputError(f"PYGPT_LAUNCH_TABLE can't be used: {error}") from error
        return Implementations(**chosen)

    def __str__(self) -> str:
        return ",".join(f"{op}={impl}" for op, impl in dataclasses.asdict(self).items())


def launch_table(impl: Implementations) -> str | None:
    """Which launch configurations the Triton kernels of `impl` take; None where it has none."""
    if "triton" not in dataclasses.astuple(impl):
        return None
    return launch.describe()


def select(op: str, impl: str, device: torch.device, size: int = 0) -> str:
    """The implementation that runs for `op` on `device`: "eager", "triton" or "native".

    Args:
        op: a field of `Implementations`.
        impl: what is asked for.
        device: of the operands.
        size: the head size of attention, the width of a layer norm.

    Raises:
        InputError: `impl` does not exist for this op, or can't run on this device or at this size.
    """
    if impl == "auto":
        where = native.default_level() if device.type == "cpu" else device.type
        fastest = _FASTEST[op].get(where, "eager")
        if fastest == "triton" and (_is_too_large(op, size) or not _triton_runs(device)):
            return "eager"
        return fastest
    if impl != "eager":
        there_are = tuple(dict.fromkeys(_FASTEST[op].values()))
        if impl not in there_are:
            have = ", ".join(("auto", "eager", *there_are))
            raise InputError(f"{op} has no implementation {impl!r}; it has {have}")
        if impl == "triton":
            _check_triton(op, device, size)
        elif device.type != "cpu":
            raise InputError(f"{op}: impl='native' runs on a CPU and the device is {device}")
    return impl


def choose(op: str, impl: str, device: torch.device, dtype: torch.dtype, size: int = 0) -> str:
    """The implementation that runs for operands of this dtype; arguments as for `select`.

    Where `select`'s does not take the dtype, "auto" means eager.

    Raises:
        InputError: see `select`.
        ValueError: an implementation that was asked for does not take the dtype.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"{op}: operands must be of a floating-point type, not {dtype}")
    chosen = select(op, impl, device, size)
    if chosen == "eager" or dtype in DTYPES[chosen]:
        return chosen
    if impl != "auto":
        have = ", ".join(str(each).removeprefix("torch.") for each in DTYPES[chosen])
        raise ValueError(f"{op}: impl={chosen!r} takes {have}, not {dtype}; take impl='eager'")
    return "eager"


@constant_while_tracing
def _triton_runs(device: torch.device) -> bool:
    """Whether the Triton kernels run on a GPU; if not, a warning says why, once."""
    why_not = _why_not_triton(device)
    if why_not:
        warn_once(f"impl='auto' means eager on {device}: {why_not}")
    return not why_not


@functools.cache
def _why_not_triton(device: torch.device) -> str:
    """Why the Triton kernels can't run on a GPU; "" if they can, or if there is none to ask."""
    if importlib.util.find_spec("triton") is None:
        return "the triton package is not installed"
    if device.type == "cuda" and torch.cuda.is_available():
        try:
            launch.architecture(device)
        except ValueError as error:
            return str(error)
    return ""


@constant_while_tracing
def notice_dropout() -> None:
    """Say, once, that on a CPU attention with dropout is eager's."""
    warn_once("attention: impl='native' has no dropout; it runs as impl='eager'")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning the first time it is given."""
    logger.warning(message)


def _is_too_large(op: str, size: int) -> bool:
    return op in _LARGEST and size > _LARGEST[op][1]


def _too_large(op: str, size: int) -> str:
    name, largest = _LARGEST[op]
    return f"the Triton kernel takes a {name} up to {largest} and this is {size}"


def _check_triton(op: str, device: torch.device, size: int) -> None:
    if _is_too_large(op, size):
        raise InputError(f"{op}: {_too_large(op, size)}; take impl='auto'")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        raise InputError(
            f"{op}: impl='triton' needs a CUDA device and the device is {device}; take impl='auto' "
            "or set TRITON_INTERPRET=1 to run the kernels in Triton's (slow) interpreter"
        )
    if why_not := _why_not_triton(device):
        raise InputError(f"{op}: impl='triton' can't run here: {why_not}")
