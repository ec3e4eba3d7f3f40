"""UTF-8 bytes as ids: the tokenizer for small models and quick trials."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pygpt.tokenizers.base import Tokenizer


class ByteTokenizer(Tokenizer):
    """UTF-8 itself: ids 0 to 255 are bytes, 256 is end-of-text."""

    def __init__(self) -> None:
        super().__init__("bytes", [bytes([value]) for value in range(256)])

    def encode_array(self, text: str) -> npt.NDArray[np.uint8]:
        """See `Tokenizer.encode_array`."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
