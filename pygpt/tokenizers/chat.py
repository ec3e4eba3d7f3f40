"""The chat template: special tokens behind a tokenizer's own, and a dialogue as ids.

A dialogue of a user and the assistant is::

    <|user|>⏎Hello<|end|>⏎<|assistant|>⏎Hi!<|end|>⏎<|endoftext|>

which is the form of Phi-3 (Abdin et al. 2024), so that other programs know it: llama.cpp takes
``<|end|>`` as the end of a turn by its name. The four tokens get the ids behind end-of-text, which
are padding in a GPT-2's embedding table (50,257 to 50,260 of 50,304): no matrix grows, and every id
of the plain tokenizer keeps its meaning. End-of-text separates dialogues as it separates documents.

The special tokens come from the roles of messages alone. The text of a message is encoded as text:
``<|assistant|>`` in it is nine characters and more, and never the special token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pygpt.tokenizers.base import END_OF_TEXT, Rows, Tokenizer, hash_vocabulary
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

ROLES = ("user", "assistant", "system")
END_OF_TURN = "<|end|>"
SPECIAL_TOKENS = (*(f"<|{role}|>" for role in ROLES), END_OF_TURN)
"""In the order of their ids, which start behind end-of-text."""

TEMPLATE_NAME = "phi-3"
"""Stored as `TokenizerInfo.chat`."""

JINJA_TEMPLATE = (
    "{% for message in messages %}"
    f"{{% if message['role'] not in {list(ROLES)} %}}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>\n' + (message['content'] | trim) + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    f"{{% else %}}{{{{ '{END_OF_TEXT}' }}}}{{% endif %}}"
)
"""The template as transformers, llama.cpp and vLLM read it; it gives the ids of `ChatTokenizer`."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: str
    """One of ROLES."""
    content: str
    """Text; white space at its ends is not encoded."""


class Conversation(NamedTuple):
    """A dialogue as training sees it."""

    ids: npt.NDArray[np.uint32]
    """(n,); the last is end-of-text."""
    is_target: npt.NDArray[np.bool_]
    """(n,); true for the ids that the assistant writes: its texts, each with its ``<|end|>``."""


class ChatTokenizer(Tokenizer):
    """A tokenizer with the special tokens of the chat template behind its own ids.

    Args:
        base: "gpt2" or "bytes".

    Attributes:
        end_of_turn: the id of ``<|end|>``.

    Raises:
        InputError: `base` is "chars", whose vocabulary is the characters of one text.
    """

    def __init__(self, base: Tokenizer) -> None:
        if base.info.characters is not None:
            raise InputError(
                "the tokenizer 'chars' knows the characters of one text only, so nobody can talk "
                "to its model; for dialogues take the tokenizer gpt2 or bytes"
            )
        self._base = base
        self._tokens = [
            *(base.decode_bytes([index]) for index in range(base.info.n_vocab)),
            *(token.encode() for token in SPECIAL_TOKENS),
        ]
        self.info = dataclasses.replace(
            base.info,
            n_vocab=len(self._tokens),
            hash=hash_vocabulary(self._tokens),
            chat=TEMPLATE_NAME,
        )
        first = base.info.n_vocab
        self._id_of = {token: first + at for at, token in enumerate(SPECIAL_TOKENS)}
        self.end_of_turn = self._id_of[END_OF_TURN]

    def encode_array(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        """See `Tokenizer.encode_array`. Special tokens in the text are text."""
        return self._base.encode_array(text)

    def encode_batch(self, texts: Sequence[bytes]) -> Rows:
        """See `Tokenizer.encode_batch`."""
        return self._base.encode_batch(texts)

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """See `Tokenizer.token_bytes`; special tokens stand for no text."""
        lengths = super().token_bytes()
        lengths[[*self._id_of.values()]] = 0
        return lengths

    def encode_prompt(self, messages: Iterable[Message]) -> list[int]:
        """The ids of a dialogue, up to where the assistant's next reply begins.

        Raises:
            InputError: a text with half of a surrogate pair, which has no UTF-8.
        """
        ids = [index for message in messages for index in self._turn(message).tolist()]
        return [*ids, self._id_of["<|assistant|>"], *self._text("\n").tolist()]

    def encode_conversation(self, messages: Iterable[Message]) -> Conversation:
        """A whole dialogue, and which of its ids the assistant writes.

        Raises:
            InputError: see `encode_prompt`.
        """
        newline = len(self._text("\n"))
        ids, is_target = [], []
        for message in messages:
            turn = self._turn(message)
            written = np.zeros(len(turn), np.bool_)
            # Between what a prompt ends in, the role and a newline, and the newline at the end.
            written[1 + newline : len(turn) - newline] = message.role == "assistant"
            ids.append(turn)
            is_target.append(written)
        ids.append(np.array([self.info.end_of_text], np.uint32))
        is_target.append(np.zeros(1, np.bool_))
        return Conversation(np.concatenate(ids), np.concatenate(is_target))

    def _turn(self, message: Message) -> npt.NDArray[np.uint32]:
        # The newline and a text that starts without white space are the same ids together and
        # apart, so that a reply is encoded as the model will write it.
        return np.concatenate(
            [
                [self._id_of[f"<|{message.role}|>"]],
                self._text("\n" + message.content.strip()),
                [self.end_of_turn],
                self._text("\n"),
            ]
        ).astype(np.uint32)

    def _text(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        try:
            return self._base.encode_array(text)
        except UnicodeEncodeError as error:
            raise InputError(f"{text.strip()!r:.60} is not valid text: {error.reason}") from error


def special_ids(info: TokenizerInfo) -> dict[str, int]:
    """Id of each special token of the chat template; empty for a plain tokenizer."""
    if info.chat is None:
        return {}
    return {token: info.end_of_text + 1 + at for at, token in enumerate(SPECIAL_TOKENS)}


def read_message(fields: Any, names: Mapping[str, str], *, role: str, content: str) -> Message:
    """A message from a JSON object.

    Args:
        fields: the object.
        names: each name that a role can have → one of ROLES.
        role: field of the role.
        content: field of the text: a string, or a list of OpenAI's ``{"type": "text"}`` parts.

    Raises:
        InputError: it is no such object, with what is wrong.
    """
    if not isinstance(fields, dict):
        raise InputError(f"a message is not an object, but {fields!r:.40}")
    for name in (role, content):
        if name not in fields:
            raise InputError(f"a message has no {name!r} but {', '.join(fields)}")
    given = fields[role]
    if not isinstance(given, str) or given not in names:
        raise InputError(f"unknown role {given!r:.40}; known are {', '.join(names)}")
    text = _text_of(fields[content], content)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{content!r} of a message has half a surrogate pair") from error
    return Message(names[given], text)


def _text_of(value: Any, name: str) -> str:
    if isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in value
    ):
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{name!r} of a message is {kind}, not a string")
    return value
