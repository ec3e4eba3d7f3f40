"""One id for each character of a corpus, as nanoGPT's shakespeare_char has it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pygpt.tokenizers.base import Tokenizer
from pygpt.utils.errors import InputError


class CharTokenizer(Tokenizer):
    """The characters of a table, sorted, are the ids 0, 1, …; end-of-text is the id behind them.

    nanoGPT has the same ids and no end-of-text. The table is kept in `TokenizerInfo.characters`.

    Args:
        characters: the table; duplicates count once.

    Raises:
        InputError: no characters.
    """

    def __init__(self, characters: str) -> None:
        if not characters:
            raise InputError("the tokenizer 'chars' needs a table of characters, and it is empty")
        table = "".join(sorted(set(characters)))
        super().__init__("chars", [character.encode() for character in table], characters=table)
        self._codes = np.array([ord(character) for character in table], dtype=np.uint32)

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """See `Tokenizer.encode_array`.

        Raises:
            InputError: a character that is not in the table.
            UnicodeEncodeError: see `Tokenizer.encode_array`.
        """
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = np.searchsorted(self._codes, codes)
        ids[ids == len(self._codes)] = 0
        missing = np.flatnonzero(self._codes[ids] != codes)
        if missing.size:
            raise InputError(
                f"the character {text[missing[0]]!r} is not among the {len(self._codes)} that the "
                "tokenizer 'chars' was made from; leave it out"
            )
        return ids.astype(np.uint32)
