"""From ids to text while it is written: whole characters, and up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from pygpt.tokenizers.base import StreamDecoder, Tokenizer


class TextStream:
    """Decodes id by id and looks for stop strings, which may begin and end inside of ids.

    Text that may be the start of a stop string is held back until the next ids decide. No text is
    given out that ends in a part of a UTF-8 character.

    Args:
        tokenizer: decodes.
        stop: strings, not empty, of which the first to appear ends the text; it is not part of it.

    Attributes:
        stopped: whether a stop string has appeared.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, index: int) -> str:
        """The text that this id decides, which may be empty.

        Raises:
            ValueError: the id is outside the tokenizer's vocabulary.
        """
        return self._release(self._decoder.push(index))

    def flush(self) -> str:
        """What was held back, at the end; a character that was never completed is U+FFFD."""
        text = self._release(self._decoder.flush()) + self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the start of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
