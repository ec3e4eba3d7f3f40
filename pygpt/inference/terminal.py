"""A chat in the terminal: lines in, replies streamed out."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import signal
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pygpt.inference.chat import Dialogue
from pygpt.inference.engine import Engine
from pygpt.inference.sampling import Sampling
from pygpt.tokenizers.chat import Message
from pygpt.utils.errors import InputError
from pygpt.utils.files import replace_text

HELP = """\
/reset       forget the dialogue; the system message stays
/save FILE   write the dialogue as a line of JSON, as `prepare chat` reads it
/help        this list
/quit        leave; Ctrl-D does it, too
Ctrl-C stops a reply. Once more, without a message in between, leaves."""


class TerminalChat:
    """Reads messages and commands from standard input and prints the replies.

    Args:
        dialogue: empty, or with a system message.
        engine: of the dialogue's model.
        sampling: how tokens are chosen.
        max_new_tokens: longest reply.
        seed: of the first reply, then counted up; None draws one for each reply.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        engine: Engine,
        sampling: Sampling,
        max_new_tokens: int,
        seed: int | None,
    ) -> None:
        self._dialogue, self._engine, self._sampling = dialogue, engine, sampling
        self._max_new_tokens = max_new_tokens
        self._seeds = iter(lambda: secrets.randbits(64), None) if seed is None else _count(seed)
        self._beginning = list(dialogue.messages)
        self._saved: Path | None = None
        self._dropped = 0

    def run(self) -> None:
        """Until /quit, Ctrl-D, or Ctrl-C twice."""
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # line editing and history in input()
            print("Ask something. /help lists the commands.")
        interrupted = False
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                print()
                if interrupted:
                    return
                interrupted = True
                print("Ctrl-C once more, Ctrl-D or /quit leaves")
                continue
            if line == "/quit":
                return
            interrupted = self._handle(line)
        if interactive:
            print()

    def _handle(self, line: str) -> bool:
        """One line of input. Returns whether Ctrl-C stopped its reply."""
        command, _, argument = line.partition(" ")
        if command == "/reset":
            self._dialogue.messages[:] = self._beginning
            self._dropped = 0
            print("the dialogue is forgotten")
        elif command == "/save":
            self._save(argument.strip())
        elif command == "/help":
            print(HELP)
        elif line.startswith("/"):
            print(f"no command {command!r}; /help lists them")
        elif line:
            return self._reply(line)
        return False

    def _reply(self, text: str) -> bool:
        messages = self._dialogue.messages
        messages.append(Message("user", text))
        try:
            prompt = self._dialogue.prompt(self._max_new_tokens)
        except InputError as error:
            messages.pop()
            print(f"error: {error}")
            return False
        if prompt.dropped > self._dropped:
            print(f"[the context is full: the model no longer reads the oldest {prompt.dropped} "
                  f"of {len(messages)} messages]")  # fmt: skip
            self._dropped = prompt.dropped
        key = self._engine.add(self._dialogue.request(prompt, self._sampling, next(self._seeds)))
        written = ""
        with _interruptible() as stop:
            while self._engine.active and not stop:
                (piece,) = self._engine.step()
                written += piece.text
                print(printable(piece.text), end="", flush=True)
                if piece.finish_reason == "length":
                    print(" [cut at the longest reply]", end="")
        self._engine.cancel(key)
        print(" [stopped]" if stop else "")
        if written.strip():
            messages.append(Message("assistant", written))
        else:
            messages.pop()
            print("[no reply; the message is forgotten]")
        return bool(stop)

    def _save(self, name: str) -> None:
        if not name:
            print("error: /save needs the name of a file")
            return
        path = Path(name).expanduser()
        if path.exists() and path != self._saved:
            print(f"error: {path} exists; name another file")
            return
        messages = [{"role": m.role, "content": m.content} for m in self._dialogue.messages]
        try:
            replace_text(path, json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            print(f"error: can't write {path}: {error.strerror}")
            return
        self._saved = path
        print(f"{len(messages)} messages written to {path}")


def printable(text: str) -> str:
    """A text without control characters, which could change the terminal's state."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def _count(seed: int) -> Iterator[int]:
    return (n % 2**64 for n in itertools.count(seed))


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that the first Ctrl-C makes non-empty; the second raises KeyboardInterrupt.

    An exception in the middle of `Engine.step` would leave the engine half changed.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)
