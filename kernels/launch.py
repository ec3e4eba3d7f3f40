"""Launch configurations: one table by architecture, operator, size class and element width.

The table is fixed, so that a resumed run sums in the order in which it began. The architectures
are sm_80 (A100), sm_89 (RTX 40, L4) and sm_90 (H100, H200); a newer card takes the entries of the
nearest one below it, an older one is refused. ``bench/aot_report.py`` compiles every entry for its
architecture, without a card, and prints registers, stack and shared memory; a test holds each entry
to its card's limits.

``python -m pygpt.tune`` measures other configurations on the card at hand and writes a table of
those that won. It is read only on request: by the environment variable PYGPT_LAUNCH_TABLE or by
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

log = logging.getLogger("pygpt")

ARCHITECTURES = ("sm_80", "sm_89", "sm_90")

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


def _attention_entries() -> dict[Key, Launch]:
    table = {}
    for arch in ARCHITECTURES:
        for size in HEAD_CLASSES:
            for bits in (16, 32):
                big = 64 if bits == 16 else 32
                table[Key(arch, "attention_forward", size, bits)] = Launch(big, big, 4, 2)
                table[Key(arch, "attention_delta", size, bits)] = Launch(64, 0, 4)
                table[Key(arch, "decode_attention", size, bits)] = Launch(1, 64, 4)
                table[Key(arch, "attention_dkdv", size, bits)] = Launch(32, big, 4, 2)
                table[Key(arch, "attention_dq", size, bits)] = Launch(big, 32, 4, 2)
    return table


def _row_entries() -> dict[Key, Launch]:
    table = {}
    for arch in ARCHITECTURES:
        for bits in (16, 32):
            for width in WIDTH_CLASSES:
                table[Key(arch, "layer_norm_forward", width, bits)] = Launch(
                    max(1, 4096 // width), width, max(4, width // 1024)
                )
                table[Key(arch, "layer_norm_backward", width, bits)] = Launch(
                    max(1, 2048 // width), width, max(4, width // 512), programs=256
                )
            table[Key(arch, "gelu_forward", 0, bits)] = Launch(8, 256, 4)
            table[Key(arch, "gelu_backward", 0, bits)] = Launch(8, 256, 4, programs=256)
            table[Key(arch, "cross_entropy", 0, bits)] = Launch(1, 4096, 8)
    return table


TABLE: dict[Key, Launch] = {**_attention_entries(), **_row_entries()}

# --- lookup ---------------------------------------------------------------------------------------

_tuned: dict[Key, Launch] = {}
_tuned_from = ""


def find(op: str, size: int, x: Tensor) -> Launch:
    """The configuration of `op` for operands like `x`, on x's card.

    Args:
        op: the kernel's name in the table.
        size: the size class, 0 where it does not matter.
        x: the operand whose device and dtype decide.
    """
    if not _tuned_from and "PYGPT_LAUNCH_TABLE" in os.environ:
        use_table(Path(os.environ["PYGPT_LAUNCH_TABLE"]))
    key = Key(architecture(x.device), op, size, 8 * x.element_size())
    return _tuned.get(key) or TABLE[key]


@functools.cache
def architecture(device: torch.device) -> str:
    """The table's architecture for `device`: its own, or the nearest one below it.

    In the interpreter, whose tensors are on the CPU, it is sm_89, the main target.

    Raises:
        ValueError: a card older than sm_80.
    """
    if device.type != "cuda":
        return "sm_89"
    major, minor = torch.cuda.get_device_capability(device)
    known = [name for name in ARCHITECTURES if int(name[3:]) <= 10 * major + minor]
    if not known:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} is sm_{major}{minor}; the Triton kernels need "
            f"{ARCHITECTURES[0]} or newer. Take impl='eager'"
        )
    return known[-1]


def use_table(path: Path | None) -> None:
    """Take the entries of a tuned table before the built-in ones; None goes back to those alone.

    Raises:
        ValueError: the file is no table written by ``python -m pygpt.tune``.
        OSError: it can't be read.
    """
    global _tuned, _tuned_from  # noqa: PLW0603 - the process has one table, like one card driver
    if path is None:
        _tuned, _tuned_from = {}, ""
        return
    text = path.read_text(encoding="utf-8")
    try:
        entries = json.loads(text)["entries"]
        _tuned = {Key.parse(key): Launch(**launch) for key, launch in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no launch table ({type(error).__name__}: {error}); write one with "
            "python -m pygpt.tune"
        ) from error
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    _tuned_from = f"{path} (sha256 {digest})"
    log.warning("launch table: %d entries from %s", len(_tuned), _tuned_from)


def write_table(path: Path, entries: dict[Key, Launch], machine: dict[str, str]) -> None:
    """Write a tuned table, with the machine that it was measured on."""
    fields = {
        "machine": machine,
        "entries": {str(key): dataclasses.asdict(entries[key]) for key in sorted(entries)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def describe() -> str:
    """Which table is in use, for logs and checkpoints: "built-in", or the tuned file and hash."""
    return _tuned_from or "built-in"
