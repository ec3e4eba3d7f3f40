"""A dialogue with a model: its messages, and the prompt for the next reply.

The terminal (`pygpt.inference.terminal`) keeps one `Dialogue`; the server makes one per request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from pygpt.inference.engine import Request
from pygpt.inference.sampling import Sampling
from pygpt.tokenizers.chat import ChatTokenizer, Message, special_ids
from pygpt.utils.errors import InputError


class ContextLengthError(InputError):
    """A text that does not fit into the model's context."""


class Prompt(NamedTuple):
    """What the model reads before it writes a reply."""

    ids: list[int]
    dropped: int
    """Messages that did not fit and were left out, the oldest first."""
    max_new_tokens: int
    """Longest reply that fits behind the ids."""


@dataclasses.dataclass
class Dialogue:
    """Messages between a user and a model.

    A model has block_size positions, for the prompt and the reply together. Where the messages
    leave too little room for a reply, the oldest turns are left out of the prompt: a turn is a
    message of the user and all that follows it up to the user's next one. System messages at the
    beginning stay.
    """

    tokenizer: ChatTokenizer
    block_size: int
    messages: list[Message] = dataclasses.field(default_factory=list)

    def prompt(self, max_new_tokens: int) -> Prompt:
        """The ids before the next reply.

        Args:
            max_new_tokens: longest reply; the prompt leaves room for it, or for block_size/2
                tokens if that is less.

        Raises:
            ContextLengthError: the system messages and the last turn alone leave too little room.
            InputError: no message, or a message that is not valid text.
        """
        if not self.messages:
            raise InputError("a dialogue needs at least one message")
        reserved = min(max_new_tokens, max(1, self.block_size // 2))
        room = self.block_size - reserved
        system, turns = _turns(self.messages)
        used = len(self.tokenizer.encode_prompt(system))
        kept = 0
        for turn in reversed(turns):
            length = self._length(turn)
            if used + length > room:
                break
            used, kept = used + length, kept + 1
        if turns and not kept:
            raise ContextLengthError(
                f"the last message and the system message have {used + length} tokens, and with "
                f"{reserved} for the reply the model has room for {room}; write a shorter message"
            )
        if used > room:
            raise ContextLengthError(
                f"the system message has {used} tokens; the model has room for {room}"
            )
        read = turns[len(turns) - kept :]
        messages = [*system, *(message for turn in read for message in turn)]
        ids = self.tokenizer.encode_prompt(messages)
        longest = min(max_new_tokens, self.block_size - len(ids))
        return Prompt(ids, len(self.messages) - len(messages), longest)

    def request(
        self, prompt: Prompt, sampling: Sampling, seed: int, stop: tuple[str, ...] = ()
    ) -> Request:
        """The prompt for an `Engine`: the reply ends at any special token."""
        stop_ids = frozenset(special_ids(self.tokenizer.info).values())
        return Request(prompt.ids, prompt.max_new_tokens, sampling, stop, stop_ids, seed)

    def _length(self, messages: Iterable[Message]) -> int:
        """Tokens that messages take in a prompt."""
        return len(self.tokenizer.encode_prompt(messages)) - len(self.tokenizer.encode_prompt([]))


def _turns(messages: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """System messages at the beginning; then the turns, each beginning with a user's message."""
    start = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    turns: list[list[Message]] = []
    for message in messages[start:]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return messages[:start], turns
