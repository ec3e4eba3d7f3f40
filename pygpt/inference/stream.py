"""Text from ids as they are generated: whole characters, cut at the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from pygpt.tokenizers.base import StreamDecoder, Tokenizer


class TextStream:
    """Decodes id by id and looks for stop strings, which may begin and end inside tokens.

    Text that may be the start of a stop string is held back until later ids decide. A UTF-8
    character is returned with its last byte.

    Args:
        tokenizer: decodes the ids.
        stop: non-empty strings. The one whose last character comes first ends the text, the longest
            if there are several; it is not part of the text. The result does not depend on how the
            text is cut into tokens.

    Attributes:
        stopped: whether a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, index: int) -> str:
        """Add an id; returns the text that is now certain, which may be empty.

        Raises:
            ValueError: the id is outside the tokenizer's vocabulary.
        """
        return self._release(self._decoder.push(index))

    def flush(self) -> str:
        """End the text; returns what was held back. An incomplete character becomes U+FFFD."""
        text = self._release(self._decoder.flush()) + self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [
            (text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text
        ]
        if found:
            self.stopped, self._held = True, ""
            _, start = min(found)
            return text[:start]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
