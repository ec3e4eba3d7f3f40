"""Encodings that text files really have: UTF-8, with a mark or without, and UTF-16 of Windows."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from pygpt.utils.errors import InputError


def read_utf8(path: Path) -> str:
    """A whole text file; a byte order mark is skipped.

    Raises:
        InputError: it is UTF-16 or UTF-32.
        OSError: it can't be read.
        UnicodeDecodeError: it is not UTF-8 either.
    """
    data = path.read_bytes()
    refuse_utf16(path, data)
    return data.decode("utf-8-sig")


def refuse_utf16(path: Path, data: bytes) -> None:
    """Name UTF-16 and UTF-32 text, with or without a byte order mark, as what it is.

    Raises:
        InputError: the first bytes of the file are such text.
    """
    sample = data[: 1 << 12]
    bom = sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    # Most text has ASCII characters in plenty; their other bytes are 0.
    share = max(len(sample), 1)
    zeros = [sum(byte == 0 for byte in sample[at::4]) * 4 / share for at in range(4)]
    guesses = {
        "UTF-32LE": zeros[2] > 0.9 and zeros[3] > 0.9,
        "UTF-32BE": zeros[0] > 0.9 and zeros[1] > 0.9,
        "UTF-16LE": min(zeros[1], zeros[3]) > 0.4 > max(zeros[0], zeros[2]),
        "UTF-16BE": min(zeros[0], zeros[2]) > 0.4 > max(zeros[1], zeros[3]),
    }
    if len(sample) < 4 or not (bom or any(guesses.values())):
        return
    name = next((name for name, fits in guesses.items() if fits), "UTF-16LE")
    if bom and name.startswith("UTF-16"):
        name = "UTF-16LE" if sample.startswith(codecs.BOM_UTF16_LE) else "UTF-16BE"
    try:
        text = codecs.getincrementaldecoder(name)().decode(sample)
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        with_bom = name[:-2] if bom else name  # with a mark, iconv finds the order and drops it
        raise InputError(
            f"{path} is {name[:-2]} text; convert it to UTF-8: "
            f"iconv -f {with_bom} -t UTF-8 {shlex.quote(str(path))} > FILE"
        )
