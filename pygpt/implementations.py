"""Which implementation of an op runs: what there is, what "auto" means here, what can't run.

Beside ``eager``, plain PyTorch in `pygpt.ops`, there is

- ``triton``: a kernel of ``pygpt.kernels`` on a GPU (or under ``TRITON_INTERPRET=1`` on a CPU);
- ``native``: C++ of ``pygpt._C`` on a CPU.

Asking for one that can't run is an error that says why; nothing falls back in silence. "auto" takes
eager on a card that the Triton kernels can't run on, and says so once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
import os

import torch

from pygpt import cpu_ops
from pygpt.errors import InputError

log = logging.getLogger("pygpt")

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

    def resolve(self, device: torch.device) -> Implementations:
        """Replace every "auto" by what it means on `device`, and check that the rest can run there.

        Raises:
            InputError: an op has no such implementation, or it can't run on `device`; see `select`.
        """
        return Implementations(
            **{
                field.name: select(field.name, getattr(self, field.name), device)
                for field in dataclasses.fields(self)
            }
        )

    def __str__(self) -> str:
        return ",".join(f"{op}={impl}" for op, impl in dataclasses.asdict(self).items())


def launch_table(impl: Implementations) -> str | None:
    """Which launch configurations the Triton kernels of `impl` take; None where it has none."""
    if "triton" not in dataclasses.astuple(impl):
        return None
    from pygpt.kernels import launch

    return launch.describe()


def select(op: str, impl: str, device: torch.device) -> str:
    """The implementation that runs for `op` on `device`: "eager", "triton" or "native".

    Raises:
        InputError: `impl` does not exist for this op, or can't run on this device.
    """
    if impl == "auto":
        where = cpu_ops.default_level() if device.type == "cpu" else device.type
        fastest = _FASTEST[op].get(where, "eager")
        return "eager" if fastest == "triton" and not _triton_runs(device) else fastest
    if impl != "eager":
        there_are = tuple(dict.fromkeys(_FASTEST[op].values()))
        if impl not in there_are:
            have = ", ".join(("auto", "eager", *there_are))
            raise InputError(f"{op} has no implementation {impl!r}; it has {have}")
        if impl == "triton":
            _check_triton(op, device)
        elif device.type != "cpu":
            raise InputError(f"{op}: impl='native' runs on a CPU and the device is {device}")
    return impl


@torch.compiler.assume_constant_result  # asked while torch.compile traces, not in the graph
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
    if torch.cuda.is_available():
        from pygpt.kernels import launch

        try:
            launch.architecture(device)
        except ValueError as error:
            return str(error)
    return ""


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning the first time it is given."""
    log.warning(message)


def _check_triton(op: str, device: torch.device) -> None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        raise InputError(
            f"{op}: impl='triton' needs a CUDA device and the device is {device}; take impl='auto' "
            "or set TRITON_INTERPRET=1 to run the kernels in Triton's (slow) interpreter"
        )
    if importlib.util.find_spec("triton") is None:
        raise InputError(f"{op}: impl='triton' needs the triton package, which is not installed")
