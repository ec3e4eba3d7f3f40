"""Prompts from a file: one a line (.txt), or JSON Lines (.jsonl)."""

from __future__ import annotations

import json
from pathlib import Path

from pygpt.utils.encodings import refuse_utf16
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import parse

EXAMPLE = '{"prompt": "The future of AI is"}'


def read_prompts(path: Path) -> list[str]:
    """The prompts of a UTF-8 file, in order. A byte order mark is skipped.

    Args:
        path: by its suffix, text with one prompt a line (``.txt``, or no suffix), or JSON Lines
            (``.jsonl``): objects with a string "prompt", which can have several lines or be empty;
            other fields are ignored. In text, spaces of a line are part of its prompt.

    Raises:
        InputError: another suffix; a file that can't be read, is not UTF-8 or has no prompt; a
            blank line in text, unless all lines after it are blank too; a line that is not such an
            object. File and line are named.
    """
    if path.suffix not in (".jsonl", ".txt", ""):
        raise InputError(
            f"{path}: prompts are read from .txt (one a line) or .jsonl ({EXAMPLE} a line), "
            f"not from {path.suffix}; rename the file or convert it"
        )
    lines = _text(path).replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{path} has no prompts; write one a line")
    parse = _from_json if path.suffix == ".jsonl" else _from_text
    found = [parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    return [prompt for prompt in found if prompt is not None]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    refuse_utf16(path, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); convert the file"
        ) from error


def _from_text(line: str, place: str) -> str:
    if not line.strip():
        raise InputError(
            f"{place} is blank; delete it. For a prompt that is empty (a new document), write "
            '{"prompt": ""} in a .jsonl file'
        )
    return line


def _from_json(line: str, place: str) -> str | None:
    """The prompt of a line; None for a blank line."""
    if not line.strip():
        return None
    try:
        fields = parse(line)
    except ValueError as error:
        why = (
            f"{error.msg} at column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else error
        )
        raise InputError(
            f"{place} is not valid JSON ({why}); a line looks like {EXAMPLE}"
        ) from error
    prompt = fields.get("prompt") if isinstance(fields, dict) else None
    if not isinstance(prompt, str):
        raise InputError(f'{place} has no string "prompt"; a line looks like {EXAMPLE}')
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place} is not valid text: {error.reason}") from error
    return prompt
