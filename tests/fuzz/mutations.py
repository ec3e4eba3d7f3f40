"""Damage to valid files: of their bytes, their lines, their numbers and their JSON.

A mutation is a function of (content, number): Hypothesis draws lists of numbers and shrinks them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

HOSTILE_NUMBERS = (
    "0", "-1", "1", "2", "1e3", "0.5", "-0.0", "1e999", "-1e999", "nan", "NaN", "inf", "Infinity",
    "65535", "65536", "2147483648", "9223372036854775807", "18446744073709551616", "9" * 400,
    "9" * 5000, "1.2.3", "..", ",", "0x10", "1_000", "٣", "true", "",
)  # fmt: skip
HOSTILE_TEXTS = (
    "", " ", "\0", "a", "train", "val", "..", "../../etc/passwd", "/etc/passwd", "é", "\ud800",
    "NaN", "1", "gpt2", "chars", "x" * 10_000, "<script>alert(1)</script>", "{{ 7 * 7 }}", "%s%n",
    "\r\n", "\u2028", "uint32", "float16", "cpu", "__class__",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, 10**30, 10**400, 2**31, 2**63, 2**64,
    float("nan"), float("inf"), float("-inf"), [], {}, [None], [[]], {"a": 1}, [1, 2, 3], "1",
    *HOSTILE_TEXTS,
)  # fmt: skip
_TOKENS = (
    *(text.encode("utf-8", "surrogatepass") for text in (*HOSTILE_NUMBERS, *HOSTILE_TEXTS)),
    *(character.encode() for character in '"{}[]:,\\='),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\x93NUMPY", b"\x88\xd8\x34\x01", b"[" * 5000),
)

Mutation = Callable[[bytes, random.Random], bytes]


def mutated(content: bytes, numbers: Sequence[int]) -> bytes:
    """`content` after one mutation for each number."""
    for number in numbers:
        drawn = random.Random(number)
        content = drawn.choice(_MUTATIONS)(content, drawn)
    return content


# --- bytes ----------------------------------------------------------------------------------------


def _place(content: bytes, drawn: random.Random) -> int:
    """Anywhere, or in the first bytes, which are headers more often than not."""
    return drawn.randrange((len(content) if drawn.random() < 0.5 else min(len(content), 200)) + 1)


def _set_byte(content: bytes, drawn: random.Random) -> bytes:
    at = _place(content, drawn)
    return content[:at] + bytes([drawn.randrange(256)]) + content[at + 1 :]


def _flip_bit(content: bytes, drawn: random.Random) -> bytes:
    at = _place(content, drawn)
    return (
        content[:at]
        + bytes(b ^ 1 << drawn.randrange(8) for b in content[at : at + 1])
        + (content[at + 1 :])
    )


def _delete(content: bytes, drawn: random.Random) -> bytes:
    at = _place(content, drawn)
    return content[:at] + content[at + drawn.randrange(1, 40) :]


def _truncate(content: bytes, drawn: random.Random) -> bytes:
    return content[: _place(content, drawn)]


def _repeat(content: bytes, drawn: random.Random) -> bytes:
    at = _place(content, drawn)
    return (
        content[:at]
        + content[at : at + drawn.randrange(1, 40)] * drawn.choice((2, 3, 20))
        + (content[at:])
    )


def _insert(content: bytes, drawn: random.Random) -> bytes:
    at = _place(content, drawn)
    return content[:at] + drawn.choice(_TOKENS) + content[at:]


def _random_bytes(content: bytes, drawn: random.Random) -> bytes:
    return drawn.randbytes(drawn.randrange(64))


# --- text -----------------------------------------------------------------------------------------


def _number(content: bytes, drawn: random.Random) -> bytes:
    """Another number in place of one, as it stands in text."""
    found = list(re.finditer(rb"[-+]?\d[\d.]*(?:e[-+]?\d+)?", content[: 1 << 14]))
    if not found:
        return content
    match = drawn.choice(found)
    new = drawn.choice(HOSTILE_NUMBERS).encode()
    return content[: match.start()] + new + content[match.end() :]


def _string(content: bytes, drawn: random.Random) -> bytes:
    found = list(re.finditer(rb'"[^"\n]*"', content[: 1 << 14]))
    if not found:
        return content
    match = drawn.choice(found)
    new = drawn.choice(HOSTILE_TEXTS).encode("utf-8", "surrogatepass")
    return content[: match.start()] + b'"' + new + b'"' + content[match.end() :]


def _line(content: bytes, drawn: random.Random) -> bytes:
    lines = content.split(b"\n")
    at, other = drawn.randrange(len(lines)), drawn.randrange(len(lines))
    change = drawn.randrange(4)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(other, lines[at])
    elif change == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = b""
    return b"\n".join(lines)


def _encoding(content: bytes, drawn: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return drawn.choice(
        (
            b"\xef\xbb\xbf" + content,
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("latin-1", "replace"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
        )
    )


# --- JSON -----------------------------------------------------------------------------------------


def _json(content: bytes, drawn: random.Random) -> bytes:
    """Change a value of a JSON file, of a line of JSON, or of a safetensors header."""
    length = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and length <= len(content) - 8:
        header = _changed_json(content[8 : 8 + length], drawn)
        if header is not None:
            return len(header).to_bytes(8, "little") + header + content[8 + length :]
    whole = _changed_json(content, drawn)
    if whole is not None:
        return whole
    lines = content.split(b"\n")
    at = drawn.randrange(len(lines))
    lines[at] = _changed_json(lines[at], drawn) or lines[at]
    return b"\n".join(lines)


def _changed_json(content: bytes, drawn: random.Random) -> bytes | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    try:
        return json.dumps(_changed(value, drawn)).encode()
    except (ValueError, RecursionError):
        return None


def _changed(root: Any, drawn: random.Random) -> Any:
    """`root` with a node at a random depth replaced, deleted, doubled or renamed."""
    if not isinstance(root, (dict, list)) or not root or drawn.random() < 0.05:
        return drawn.choice(HOSTILE_VALUES)
    if isinstance(root, list):
        at: Any = drawn.randrange(len(root))
    else:
        at = drawn.choice(list(root))
    if isinstance(root[at], (dict, list)) and root[at] and drawn.random() < 0.7:
        root[at] = _changed(root[at], drawn)
        return root
    change = drawn.randrange(6)
    if change == 0:
        del root[at]
    elif change == 1 and isinstance(root, dict):
        root[drawn.choice(HOSTILE_TEXTS)] = root.pop(at)
    elif change == 1:
        root.insert(at, root[at])
    elif change == 2 and isinstance(root, dict):
        root[drawn.choice(HOSTILE_TEXTS)] = drawn.choice(HOSTILE_VALUES)
    elif change == 3 and isinstance(root[at], (int, float)):
        root[at] = drawn.choice(
            (root[at] + 1, root[at] - 1, root[at] * 2, -root[at], str(root[at]))
        )
    else:
        root[at] = drawn.choice(HOSTILE_VALUES)
    return root


_MUTATIONS: tuple[Mutation, ...] = (
    _set_byte, _flip_bit, _delete, _truncate, _repeat, _insert, _random_bytes,
    _number, _number, _string, _line, _line, _encoding, _json, _json, _json, _json,
)  # fmt: skip
