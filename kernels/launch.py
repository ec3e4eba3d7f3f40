"""Launch configurations: one table by architecture, operator, size class and element width.

The table is fixed, so that a resumed run sums in the same order as before. The architectures
are sm_80 (A100), sm_89 (RTX 40, L4) and sm_90 (H100, H200). Other GPUs use the entries of one
with as much shared memory (RTX 30 and RTX 50: sm_89), newer ones those of the nearest one below;
GPUs older than sm_80 are refused. ``bench/aot_report.py`` compiles every entry for its
architecture, without a GPU, and prints registers, stack and shared memory; a test checks each entry
against its architecture's limits.

``python -m pygpt.tune`` measures other configurations on the GPU at hand and writes a table of
the fastest. It is read only on request: by the environment variable PYGPT_LAUNCH_TABLE or by
`use_table`.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from pygpt.kernels import toolchain
from pygpt.utils.files import replace_text

logger = logging.getLogger(__name__)

ARCHITECTURES = ("sm_80", "sm_89", "sm_90")

# RTX 30, RTX 50 and GB10: 100 KiB of shared memory per SM, like sm_89, and no warp-group products.
_LIKE_SM_89 = (86, 120, 121)

HEAD_CLASSES = (16, 32, 64, 128)
WIDTH_CLASSES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a kernel is launched: the tile that one program holds, and what it may use."""

    rows: int
    """Rows of the tile: queries in attention, positions in the other operators."""
    columns: int
    """Columns of the tile: keys in attention, ids in cross-entropy, channels in the others."""
    num_warps: int
    num_stages: int = 1
    """Depth of the software pipeline over the loop's loads."""
    programs: int = 0
    """Programs over which a kernel that sums over all rows divides them; 0 where none does."""
    reason: str = ""
    """Why the entry is right although it spills or leaves room for only one program per SM."""

    @property
    def options(self) -> dict[str, int]:
        """The keyword arguments that every Triton launch takes."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclasses.dataclass(frozen=True, order=True)
class Key:
    """What an entry is for."""

    architecture: str
    op: str
    size: int
    """The head size or width, rounded up to its class; 0 where it does not matter."""
    bits: int
    """Width of an element: 16 (fp16, bf16) or 32 (fp32)."""

    def __str__(self) -> str:
        return f"{self.architecture}/{self.op}/{self.size}/{self.bits}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read what ``str()`` wrote."""
        architecture, op, size, bits = text.split("/")
        return cls(architecture, op, int(size), int(bits))


def head_class(head_size: int) -> int:
    """The power of two that a head is padded to in registers."""
    return _round_up(head_size, HEAD_CLASSES, "head size")


def width_class(width: int) -> int:
    """The power of two that a row is padded to in registers."""
    return _round_up(width, WIDTH_CLASSES, "width")


def _round_up(value: int, classes: tuple[int, ...], name: str) -> int:
    for bound in classes:
        if value <= bound:
            return bound
    raise ValueError(
        f"the Triton kernels take a {name} up to {classes[-1]}, not {value}; take impl='eager'"
    )


# --- the table ------------------------------------------------------------------------------------
# Chosen by what they compile to, not by time: python -m pygpt.tune measures that, on a GPU.
# Registers decide on sm_80 and sm_89, where a tile may spill nothing and must leave room for two
# programs per SM. On sm_90 whole warp groups multiply out of shared memory, 64 rows or more each;
# one group a program leaves more of them to an SM than two do: 4 to 5 against 2 in the forward, and
# 3 against 2 where dK/dV at head size 64 takes 32 queries (135 registers instead of 247).

_FULL = "two groups of four warps share each block of keys; their sums fill the registers"
_WIDE = "one row and its sums fill the registers; wider than any GPT-2, so right before fast"

# (operator, head class): the launch on sm_80, sm_89 and sm_90. Tiles are queries × keys.
_ATTENTION_16_BIT = {
    ("attention_forward", 16): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(64, 64, 4, 3)),
    ("attention_forward", 32): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(64, 64, 4, 3)),
    ("attention_forward", 64): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(64, 64, 4, 3)),
    ("attention_forward", 128): (
        Launch(64, 64, 4, 2), Launch(64, 32, 4, 2), Launch(128, 64, 8, 3, reason=_FULL)
    ),
    ("attention_dkdv", 16): (Launch(64, 64, 4, 2), Launch(64, 64, 4, 2), Launch(64, 64, 4, 2)),
    ("attention_dkdv", 32): (Launch(32, 64, 4, 3), Launch(32, 64, 4, 3), Launch(64, 64, 4, 2)),
    ("attention_dkdv", 64): (Launch(32, 64, 4, 2), Launch(32, 64, 4, 2), Launch(32, 64, 4, 3)),
    ("attention_dkdv", 128): (Launch(32, 32, 4, 2), Launch(32, 32, 4, 2), Launch(32, 64, 4, 3)),
    ("attention_dq", 16): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(64, 64, 4, 3)),
    ("attention_dq", 32): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(64, 64, 4, 3)),
    ("attention_dq", 64): (Launch(64, 32, 4, 3), Launch(64, 32, 4, 3), Launch(64, 64, 4, 3)),
    ("attention_dq", 128): (Launch(64, 32, 4, 2), Launch(32, 32, 4, 2), Launch(64, 64, 4, 2)),
}  # fmt: skip

# The same on every architecture, exact or in TF32: training uses 16 bits where the GPU has them.
_ATTENTION_32_BIT = {
    ("attention_forward", 16): Launch(32, 32, 4, 2),
    ("attention_forward", 32): Launch(32, 32, 4, 2),
    ("attention_forward", 64): Launch(32, 32, 4, 2),
    ("attention_forward", 128): Launch(32, 16, 8),
    ("attention_dkdv", 16): Launch(32, 32, 4),
    ("attention_dkdv", 32): Launch(32, 32, 4),
    ("attention_dkdv", 64): Launch(32, 32, 8),
    ("attention_dkdv", 128): Launch(16, 16, 4),
    ("attention_dq", 16): Launch(32, 32, 4),
    ("attention_dq", 32): Launch(32, 32, 4),
    ("attention_dq", 64): Launch(32, 32, 4),
    ("attention_dq", 128): Launch(32, 16, 4),
}

# Width class: the launch of the forward and of the backward. 32 elements of a tile per thread in
# the forward; at most 16 in the backward, which holds five such tiles at once.
_LAYER_NORM = {
    128: (Launch(32, 128, 4), Launch(16, 128, 4)),
    256: (Launch(16, 256, 4), Launch(4, 256, 4)),
    512: (Launch(8, 512, 4), Launch(4, 512, 4)),
    1024: (Launch(4, 1024, 4), Launch(2, 1024, 4)),
    2048: (Launch(2, 2048, 4), Launch(1, 2048, 4)),
    4096: (Launch(1, 4096, 8), Launch(1, 4096, 8)),
    8192: (Launch(1, 8192, 16), Launch(1, 8192, 16, reason=_WIDE)),
    16384: (Launch(1, 16384, 16, reason=_WIDE), Launch(1, 16384, 32, reason=_WIDE)),
}

# Programs that sum over all rows, by architecture: a few per SM of an A100 (108), an RTX 4070 (46)
# and an H200 (132). Fixed, not queried from the GPU, so that every GPU sums in the same order.
_LAYER_NORM_PROGRAMS = {"sm_80": 432, "sm_89": 368, "sm_90": 528}

# The backward of GPT-2's widths, and how many times as many programs, with half as much per thread
# and twice the threads on an SM: on sm_90, where memory is fast enough that a program's reductions
# show between its loads, and in fp32, where more would spill.
_HALF_TILES = {
    512: (Launch(2, 512, 4), 2),
    1024: (Launch(1, 1024, 4), 2),
    2048: (Launch(1, 2048, 8), 1),
}

_GELU_PROGRAMS = {"sm_80": 864, "sm_89": 368, "sm_90": 1056}


def _build_table() -> dict[Key, Launch]:
    table = {}
    for arch, column in zip(ARCHITECTURES, range(3), strict=True):
        for (op, size), launches in _ATTENTION_16_BIT.items():
            table[Key(arch, op, size, 16)] = launches[column]
        for (op, size), launch in _ATTENTION_32_BIT.items():
            table[Key(arch, op, size, 32)] = launch
        for bits in (16, 32):
            for size in HEAD_CLASSES:
                table[Key(arch, "attention_delta", size, bits)] = Launch(64, 0, 4)
                table[Key(arch, "decode_attention", size, bits)] = Launch(1, 64, 4)
            programs = _LAYER_NORM_PROGRAMS[arch]
            halved = _HALF_TILES if arch == "sm_90" or bits == 32 else {}
            for width, (forward, whole) in _LAYER_NORM.items():
                backward, times = halved.get(width, (whole, 1))
                summing = dataclasses.replace(backward, programs=times * programs)
                table[Key(arch, "layer_norm_forward", width, bits)] = forward
                table[Key(arch, "layer_norm_backward", width, bits)] = summing
            table[Key(arch, "gelu_forward", 0, bits)] = Launch(8, 256, 4)
            table[Key(arch, "cross_entropy", 0, bits)] = Launch(1, 4096, 8)
            programs = _GELU_PROGRAMS[arch]
            table[Key(arch, "gelu_backward", 0, bits)] = Launch(8, 256, 4, programs=programs)
    return table


TABLE = _build_table()

# --- lookup ---------------------------------------------------------------------------------------

_tuned: dict[Key, Launch] = {}
_tuned_from: str | None = None  # None until the environment has been looked at


def find(op: str, size: int, x: Tensor) -> Launch:
    """The configuration of `op` for operands like `x`, on x's GPU.

    Args:
        op: the kernel's name in the table.
        size: the size class, 0 where it does not matter.
        x: the operand whose device and dtype decide.
    """
    _look_at_environment()
    key = Key(architecture(x.device), op, size, 8 * x.element_size())
    return _tuned.get(key) or TABLE[key]


def _look_at_environment() -> None:
    if _tuned_from is None:
        named = os.environ.get("PYGPT_LAUNCH_TABLE")
        use_table(Path(named) if named else None)


@functools.cache
def architecture(device: torch.device) -> str:
    """The table's architecture for `device`: its own, or the one it is most like.

    In the interpreter, whose tensors are on the CPU, it is sm_89, the main target. The first call
    for a GPU also chooses the compiler; see `pygpt.kernels.toolchain`.

    Raises:
        ValueError: a GPU older than sm_80, or a compiler that is wrong for it.
    """
    if device.type != "cuda":
        return "sm_89"
    major, minor = torch.cuda.get_device_capability(device)
    capability = 10 * major + minor
    toolchain.prepare(capability)
    if capability in _LIKE_SM_89:
        return "sm_89"
    known = [name for name in ARCHITECTURES if int(name.removeprefix("sm_")) <= capability]
    if not known:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} is sm_{capability} and the Triton kernels need "
            f"{ARCHITECTURES[0]} or newer; take impl='eager'"
        )
    return known[-1]


def use_entries(entries: dict[Key, Launch], source: str) -> None:
    """Use `entries` instead of the built-in ones; `describe` returns `source`."""
    global _tuned, _tuned_from  # one table for the process
    _tuned, _tuned_from = entries, source


def use_table(path: Path | None) -> None:
    """Use the entries of a tuned table instead of the built-in ones; None uses only the latter.

    Raises:
        ValueError: the file is not a table written by ``python -m pygpt.tune``.
        OSError: it can't be read.
    """
    if path is None:
        use_entries({}, "")
        return
    text = path.read_text(encoding="utf-8")
    try:
        fields = json.loads(text)
        entries = {Key.parse(key): Launch(**entry) for key, entry in fields["entries"].items()}
        source = f"{path} ({fields['id']})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a launch table ({type(error).__name__}: {error}); write one with "
            "python -m pygpt.tune"
        ) from error
    use_entries(entries, source)
    logger.warning("launch table: %d entries from %s", len(entries), source)


def write_table(path: Path, entries: dict[Key, Launch], identity: str) -> None:
    """Write a tuned table for `use_table`; `identity` is the id that `describe` reports."""
    fields = {
        "id": identity,
        "entries": {str(key): dataclasses.asdict(entries[key]) for key in sorted(entries)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(fields, indent=2) + "\n")


def describe() -> str:
    """Which table is in use, for logs and checkpoints: the built-in one or a file, and its id."""
    _look_at_environment()
    return _tuned_from or f"built-in ({identity(TABLE)})"


def identity(entries: dict[Key, Launch]) -> str:
    """12-digit hash of the entries."""
    text = repr([(key, entries[key]) for key in sorted(entries)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
