"""What all tokenizers share, and how to get one.

- `get_tokenizer` returns a tokenizer by name. `load_tokenizer` returns the one that a dataset or a
  checkpoint was made with, and checks that the vocabulary is the same.
- `Tokenizer` holds the vocabulary and decodes; the subclasses (gpt2.py, bytes.py, chars.py) encode.
- `StreamDecoder` decodes id by id, for streamed output.
- `last_safe_break` finds where a long text can be cut without changing its ids.
"""

from __future__ import annotations

import abc
import codecs
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from pygpt.tokenizers.chat import ChatTokenizer

END_OF_TEXT = "<|endoftext|>"


class Rows(NamedTuple):
    """The ids of n texts."""

    ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    """(n + 1,) where the ids of each begin, and the end."""


class Tokenizer(abc.ABC):
    """A vocabulary: what each id stands for, and who it is."""

    info: TokenizerInfo

    def __init__(
        self, name: str, tokens: Sequence[bytes], *, characters: str | None = None
    ) -> None:
        """Take the bytes of every ordinary id, in order; end-of-text becomes the id behind them."""
        self._tokens = [*tokens, END_OF_TEXT.encode()]
        self.info = TokenizerInfo(
            name=name,
            n_vocab=len(self._tokens),
            end_of_text=len(tokens),
            hash=hash_vocabulary(self._tokens),
            characters=characters,
        )

    @abc.abstractmethod
    def encode_array(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        """The ids of a text, (n,). ``<|endoftext|>`` in the text is text, never the special id.

        Raises:
            UnicodeEncodeError: the text holds half of a surrogate pair, which has no UTF-8.
        """

    def encode(self, text: str) -> list[int]:
        """The ids of a text as a list; see `encode_array`."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_batch(self, texts: Sequence[bytes]) -> Rows:
        """The ids of several texts in UTF-8, each as `encode_array` gives it.

        Called from many threads.
        """
        rows = [self.encode_array(text.decode()) for text in texts]
        return Rows(
            np.concatenate([np.empty(0, np.uint32), *rows], dtype=np.uint32),
            np.cumsum([0, *map(len, rows)], dtype=np.int64),
        )

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; end-of-text gives ``<|endoftext|>``.

        Raises:
            ValueError: an id outside the vocabulary, such as one of a model's padded ids.
        """
        return b"".join([self._token(index) for index in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """UTF-8 bytes of text behind each id, (n_vocab,): 0 for end-of-text, which is no text.

        Bits per byte divides by their sum over the targets.
        """
        lengths = np.array([len(token) for token in self._tokens], dtype=np.int32)
        lengths[self.info.end_of_text] = 0
        return lengths

    def _token(self, index: int) -> bytes:
        if not 0 <= index < len(self._tokens):
            raise ValueError(
                f"id {int(index)} is not in the vocabulary of {self.info.name!r}, "
                f"which has the ids 0 to {len(self._tokens) - 1}"
            )
        return self._tokens[index]


@functools.cache
def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called "gpt2" or "bytes". It is built once per process.

    Raises:
        InputError: an unknown name, with those there are.
    """
    from pygpt.tokenizers.bytes import ByteTokenizer
    from pygpt.tokenizers.gpt2 import GPT2Tokenizer

    classes: dict[str, type[GPT2Tokenizer | ByteTokenizer]] = {
        "gpt2": GPT2Tokenizer,
        "bytes": ByteTokenizer,
    }
    if name == "chars":
        raise InputError(
            "the tokenizer 'chars' is made from a text: `python -m pygpt.prepare SOURCE "
            "--tokenizer chars` makes it and keeps its table in dataset.json"
        )
    if name not in classes:
        raise InputError(f"no tokenizer {name!r}; {did_you_mean(name, [*classes, 'chars'])}")
    return classes[name]()


def load_tokenizer(info: TokenizerInfo) -> Tokenizer:
    """The tokenizer that a dataset or a checkpoint says it was made with.

    Raises:
        InputError: the name is unknown, or this installation's vocabulary is another one.
    """
    tokenizer = _from_characters(info.characters) if info.characters else get_tokenizer(info.name)
    if info.chat is not None:
        tokenizer = chat_tokenizer(tokenizer)
    if tokenizer.info != info:
        raise InputError(
            f"the tokenizer {info.name!r} was recorded as {_describe(info)} and is here "
            f"{_describe(tokenizer.info)}: the ids don't mean the same; prepare the dataset again"
        )
    return tokenizer


@functools.cache
def _from_characters(characters: str) -> Tokenizer:
    from pygpt.tokenizers.chars import CharTokenizer

    return CharTokenizer(characters)


@functools.cache
def chat_tokenizer(base: Tokenizer) -> ChatTokenizer:
    """The tokenizer with the special tokens of the chat template; itself if it has them.

    Raises:
        InputError: see `pygpt.tokenizers.chat.ChatTokenizer`.
    """
    from pygpt.tokenizers.chat import ChatTokenizer

    return base if isinstance(base, ChatTokenizer) else ChatTokenizer(base)


class StreamDecoder:
    """Decodes id by id. A character whose bytes are spread over ids comes out with its last id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        """The text that this id completes, which may be empty.

        Raises:
            ValueError: the id is outside the vocabulary.
        """
        return self._utf8.decode(self._tokenizer.decode_bytes([index]))

    def flush(self) -> str:
        """What is left at the end: "" or U+FFFD for a character that never was completed."""
        return self._utf8.decode(b"", final=True)


def last_safe_break(text: str) -> int:
    """The last place where `text` may be cut with encode(before) + encode(after) == encode(text).

    That is behind a lone newline between two characters that are not whitespace: for GPT-2's
    pattern it is a piece of its own, whether the text goes on or not. With more whitespace around
    it the pattern would look across the cut.

    Returns:
        The index of the first character after the cut; 0 if there is no such place.
    """
    newline = text.rfind("\n")
    while newline > 0:
        before, after = text[newline - 1], text[newline + 1 : newline + 2]
        if after and not before.isspace() and not after.isspace():
            return newline + 1
        newline = text.rfind("\n", 0, newline)
    return 0


def hash_vocabulary(tokens: Sequence[bytes]) -> str:
    """SHA-256 over every token in the order of ids, each behind its length (4 bytes, little)."""
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()


def _describe(info: TokenizerInfo) -> str:
    return f"{info.n_vocab} ids, end-of-text {info.end_of_text}, hash {info.hash[:12]}…"
