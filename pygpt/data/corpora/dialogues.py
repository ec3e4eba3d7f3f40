"""Dialogues: JSON lines in OpenAI's form or ShareGPT's, or one JSON array of them.

Example lines::

    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]}
    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from pygpt.data.corpora.compressed import open_compressed, read_errors
from pygpt.data.corpora.parts import Unreadable
from pygpt.tokenizers.chat import ROLES, Message, read_message
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import parse


class _Form(NamedTuple):
    """Where a kind of file keeps a dialogue."""

    turns: str
    role: str
    content: str
    names: dict[str, str]
    """Names of roles → the template's."""


_FORMS = (
    _Form("messages", "role", "content", {role: role for role in ROLES}),
    _Form(
        "conversations",
        "from",
        "value",
        {
            **dict.fromkeys(("human", "user"), "user"),
            **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
            "system": "system",
        },
    ),
)


def read_dialogues(path: Path) -> Iterator[tuple[int, list[Message] | Unreadable]]:
    """The dialogues of a file that may be compressed, in order.

    An empty system message is left out. What comes behind damage of the file is not read.

    Yields:
        The bytes that were read for it, and the dialogue, or why it can't be used: with the file,
        the line (in an array: the record), and what is wrong.
    """
    try:
        with open_compressed(path) as file:
            for n_bytes, place, text in _records(file):
                try:
                    yield n_bytes, _dialogue(text)
                except InputError as error:
                    yield n_bytes, Unreadable(f"{path}, {place}: {error}")
    except read_errors() as error:
        yield 0, Unreadable(f"{path} is damaged or cut off ({error!r})")


def _records(file: IO[bytes]) -> Iterator[tuple[int, str, bytes | object]]:
    """Size, place and content of each record: a line, or an object of an array."""
    lines = iter(file)
    first = next((line for line in lines if line.strip()), b"").removeprefix(codecs.BOM_UTF8)
    if first.lstrip()[:1] != b"[":
        for number, line in enumerate(itertools.chain([first], lines), 1):
            if line.strip():
                yield len(line), f"line {number}", line
        return
    whole = first + b"".join(lines)
    try:
        records = parse(whole)
    except ValueError as error:
        yield len(whole), "a JSON array", _NotJson(str(error))
        return
    for number, record in enumerate(records, 1):
        yield len(whole) // len(records), f"record {number}", record


class _NotJson(NamedTuple):
    reason: str


def _dialogue(record: bytes | object) -> list[Message]:
    fields: Any = record
    if isinstance(record, bytes):
        try:
            fields = parse(record.decode("utf-8"))
        except ValueError as error:
            fields = _NotJson(str(error))
    if isinstance(fields, _NotJson):
        raise InputError(f"not UTF-8 JSON ({fields.reason})")
    if not isinstance(fields, dict):
        raise InputError(f"not a JSON object, but {fields!r:.40}")
    form = next((form for form in _FORMS if form.turns in fields), None)
    if form is None:
        raise InputError(
            f"neither 'messages' nor 'conversations', but {', '.join(fields) or 'no field'}"
        )
    turns = fields[form.turns]
    if not isinstance(turns, list):
        raise InputError(f"{form.turns!r} is not a list, but {turns!r:.40}")
    messages = [
        read_message(turn, form.names, role=form.role, content=form.content) for turn in turns
    ]
    messages = [each for each in messages if each.role != "system" or each.content.strip()]
    for number, message in enumerate(messages, 1):
        if not message.content.strip():
            raise InputError(f"message {number}, of the {message.role}, is empty")
    return messages
