"""Look for registers that compiled code of sm_90 overwrites while a product still reads them.

A warp-group product (HGMMA) may take its left operand from registers. It runs asynchronously: these
registers must stay as they are until WARPGROUP.DEPBAR has waited for it. A ptxas before 13.3 does
not always see to that (release notes of CUDA 13.3).
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tempfile
from pathlib import Path

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"^\s*(\.L\w+):")
_PREDICATE = r"(?:@!?U?P\w+\s+)?"
_FROM_REGISTERS = re.compile(_PREDICATE + r"HGMMA\S*\s+R\d+, R(\d+), gdesc")
_WAIT = re.compile(_PREDICATE + r"WARPGROUP\.DEPBAR\.LE gsb0, 0x([0-9a-f]+)")
_BRANCH = re.compile(_PREDICATE + r"BRA\S*\s.*`\((\.L\w+)\)")
_OPERATION = re.compile(_PREDICATE + r"(\S+)\s+(?:!?U?P\w+, )*R(\d+)\b")

OPERAND_REGISTERS = 4
"""Of the left operand of one product, 64 × 32 bytes over the threads of a warp group."""

MOST_GROUPS = 8
"""A wait names at most 7; counting further around a loop would never end."""

# Operations whose first register is no result.
_STORES = frozenset(
    ("ST", "STG", "STS", "STL", "STSM", "RED", "LDGSTS", "UTMALDG", "UTMASTG", "R2UR", "R2P")
)
_COMPARISONS = frozenset(("ISETP", "FSETP", "HSETP2", "DSETP", "PLOP3", "FCHK"))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of SASS."""

    address: str
    text: str

    @property
    def written(self) -> range:
        """Registers that it writes, by number."""
        match = _OPERATION.match(self.text)
        if match is None:
            return range(0)
        name, first = match[1], int(match[2])
        if name.partition(".")[0] in _STORES | _COMPARISONS:
            return range(0)
        return range(first, first + _width(name))

    @property
    def closes_group(self) -> bool:
        """Whether it is the last product of a group that DEPBAR can wait for."""
        return "HGMMA" in self.text and self.text.endswith("gsb0")

    @property
    def is_unconditional(self) -> bool:
        """Whether it has no predicate."""
        return not self.text.startswith("@")


def _width(name: str) -> int:
    """How many registers an operation writes, from its modifiers."""
    operation, *modifiers = name.split(".")
    if operation == "HGMMA":
        columns = re.search(r"64x(\d+)x", name)
        assert columns, name
        return int(columns[1]) // (2 if "F32" in modifiers else 4)
    if operation == "HMMA":
        return 4 if "F32" in modifiers else 2
    if operation == "LDSM":
        return int(modifiers[-1]) if modifiers[-1].isdigit() else 1
    if "128" in modifiers:
        return 4
    if operation == "CS2R":
        return 1 if "32" in modifiers else 2
    return 2 if "64" in modifiers or "WIDE" in modifiers else 1


def disassemble(cubin: bytes) -> str:
    """The SASS of a compiled kernel, by the nvdisasm inside the triton wheel."""
    import triton

    nvdisasm = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        # It warns of cubins that are newer than itself, and reads them.
        return subprocess.run(
            [nvdisasm, "-c", file.name], check=True, capture_output=True, text=True
        ).stdout


def overwritten_operands(sass: str) -> list[str]:
    """The places where a register is written while a product may still read it, a line each.

    Every path from a product is followed until a WARPGROUP.DEPBAR has waited for its group.
    """
    instructions, labels = _parse(sass)
    found = []
    for i, instruction in enumerate(instructions):
        match = _FROM_REGISTERS.match(instruction.text)
        if match is None:
            continue
        operand = range(int(match[1]), int(match[1]) + OPERAND_REGISTERS)
        for other in _while_running(instructions, labels, i):
            if _overlap(operand, other.written):
                found.append(
                    f"R{operand[0]} to R{operand[-1]} of the product at {instruction.address} are "
                    f"overwritten at {other.address}: {other.text}"
                )
    return found


def _parse(sass: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions, and of each label the index of the one behind it."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif match := _LINE.search(line):
            instructions.append(Instruction(match[1], match[2]))
    return instructions, labels


def _while_running(
    instructions: list[Instruction], labels: dict[str, int], product: int
) -> list[Instruction]:
    """What may run between a product and the wait for its group, in any order."""
    closed = instructions[product].closes_group
    # (instruction, groups that were closed since, this product's own included)
    pending, seen = [(product + 1, int(closed))], set()
    while pending:
        state = pending.pop()
        if state in seen or state[0] >= len(instructions):
            continue
        seen.add(state)
        i, groups = state
        instruction = instructions[i]
        wait = _WAIT.match(instruction.text)
        if wait and groups > int(wait[1], 16):  # so many groups, the newest, may still run
            continue
        groups = min(groups + instruction.closes_group, MOST_GROUPS)
        branch = _BRANCH.match(instruction.text)
        if branch:
            pending.append((labels[branch[1]], groups))
        ends = branch or "EXIT" in instruction.text
        if not (ends and instruction.is_unconditional):
            pending.append((i + 1, groups))
    return [instructions[i] for i in sorted({i for i, _ in seen})]


def _overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop
