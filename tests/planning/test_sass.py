"""The search for overwritten operands in SASS, on code written for it."""

from __future__ import annotations

import pytest

from pygpt.planning.sass import Instruction, overwritten_operands

PRODUCT = "HGMMA.64x64x16.F32.BF16 R24, R104, gdesc[UR20].tnspB, R24"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x0"


def _sass(*lines: str) -> str:
    """Lines as nvdisasm prints them; a label ends in a colon."""
    return "\n".join(
        line if line.endswith(":") else f"        /*{16 * i:04x}*/     {line} ;"
        for i, line in enumerate(lines)
    )


@pytest.mark.parametrize(
    "code",
    [
        (f"{PRODUCT}, gsb0", WAIT, "FADD R104, R1, R2"),  # after the wait
        (f"{PRODUCT}, gsb0", "FADD R108, R1, R2", WAIT),  # another register
        (f"{PRODUCT}, gsb0", "STG.E.128 desc[UR4][R104.64], R4", WAIT),  # only read
        (f"{PRODUCT}, gsb0", "ISETP.GE.AND P0, PT, R104, R5, PT", WAIT),
        (f"{PRODUCT}, gsb0", "EXIT", "FADD R104, R1, R2"),  # never reached
        ("HGMMA.64x64x16.F32.BF16 R104, gdesc[UR12], RZ, !UPT, gsb0", "MOV R104, R1", WAIT),
        # The second group still runs, the first one does not.
        (f"{PRODUCT}, gsb0", "HGMMA.64x32x16.F32.BF16 R56, R88, gdesc[UR8], R56, gsb0",
         "WARPGROUP.DEPBAR.LE gsb0, 0x1", "MOV R104, R1", WAIT),
    ],
)  # fmt: skip
def test_right_code(code: tuple[str, ...]) -> None:
    assert overwritten_operands(_sass(*code)) == []


@pytest.mark.parametrize(
    ("code", "at"),
    [
        ((PRODUCT, "FADD R107, R1, R2", f"{PRODUCT}, gsb0", WAIT), "0010"),
        ((f"{PRODUCT}, gsb0", "@!P0 LDS.128 R100, [R3]", "LDS.64 R106, [R3]", WAIT), "0020"),
        ((f"{PRODUCT}, gsb0", "SHFL.BFLY PT, R105, R3, 0x1, 0x1f", WAIT), "0010"),
        ((f"{PRODUCT}, gsb0", "HGMMA.64x32x16.F32.BF16 R96, gdesc[UR8], R96, gsb0", WAIT), "0010"),
        # The wait leaves this group, the newest, running.
        ((f"{PRODUCT}, gsb0", "WARPGROUP.DEPBAR.LE gsb0, 0x1", "MOV R104, R1", WAIT), "0020"),
        # Around a loop, on one of two paths.
        ((".L_x_1:", "MOV R104, R1", f"{PRODUCT}, gsb0", "@!P0 BRA `(.L_x_1)", WAIT), "0010"),
        ((f"{PRODUCT}, gsb0", "@P1 BRA `(.L_x_2)", WAIT, "EXIT", ".L_x_2:", "MOV R106, R1", WAIT),
         "0050"),
    ],
)  # fmt: skip
def test_overwritten(code: tuple[str, ...], at: str) -> None:
    (found,) = overwritten_operands(_sass(*code))
    assert "R104 to R107 of the product" in found
    assert f"overwritten at {at}" in found


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24, gsb0", range(24, 88)),
        ("HMMA.16816.F32.BF16 R8, R4, R2, R8", range(8, 12)),
        ("LDG.E.128 R4, desc[UR4][R2.64]", range(4, 8)),
        ("IMAD.WIDE R2, R5, 0x4, R8", range(2, 4)),
        ("@P3 LDSM.16.M88.4 R40, [R12]", range(40, 44)),
        ("FSETP.GT.AND P0, PT, R3, R4, PT", range(0)),
        ("WARPGROUP.ARRIVE", range(0)),
    ],
)
def test_registers_that_an_instruction_writes(text: str, written: range) -> None:
    assert Instruction("0000", text).written == written
