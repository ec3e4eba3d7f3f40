"""One thread computes for all requests; asyncio tasks wait for the pieces of their own."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable

from pygpt.inference.engine import Engine, Piece, Request
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

MAX_ACTIVE = 72
"""Requests at work and waiting; a further one is refused."""


class OverloadedError(Exception):
    """As many requests wait as may wait."""


class ComputationError(Exception):
    """The engine failed, for example out of memory; the log has the reason."""


class Submission:
    """A request at work: its pieces, on their way from the thread to a task of the event loop."""

    def __init__(self, close: Callable[[Submission], None]) -> None:
        self.key: int | None = None  # the engine's, as the thread knows it
        self._items: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._close: Callable[[Submission], None] | None = close

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces, up to the last.

        Raises:
            InputError: see `Engine.add`.
            ComputationError: the engine failed.
        """
        while True:
            item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if item.finish_reason:
                return

    def close(self) -> None:
        """Cancel what is not finished, and make room for another request."""
        if self._close:
            self._close(self)
            self._close = None

    def send(self, item: Piece | Exception) -> None:
        """Called by the thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, item)

    def _receive(self, item: Piece | Exception) -> None:
        self._items.put_nowait(item)
        if isinstance(item, Exception) or item.finish_reason:
            self.close()  # its place is free, however slowly the client reads


class EngineThread:
    """Runs an `Engine` in a thread of its own. Its methods are called from one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._submissions: dict[int, Submission] = {}  # by the engine's key; of the thread
        self._n_active = 0  # of the event loop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def admit(self) -> None:
        """Raise OverloadedError if a further request would be refused."""
        if self._n_active >= MAX_ACTIVE:
            raise OverloadedError

    def submit(self, request: Request) -> Submission:
        """Queue a request. The caller closes what it gets, whatever happens.

        Raises:
            OverloadedError: too many requests wait.
        """
        self.admit()
        self._n_active += 1
        submission = Submission(self._close)
        self._commands.put(lambda: self._add(submission, request))
        return submission

    def _close(self, submission: Submission) -> None:
        self._n_active -= 1
        self._commands.put(lambda: self._cancel(submission))

    def end_requests(self) -> None:
        """End all requests with ComputationError, as the server is going to stop."""
        self._commands.put(self._fail_all)

    def stop(self) -> None:
        """End the thread after its step."""
        self._commands.put(None)
        self._thread.join()

    # The rest runs in the thread.

    def _run(self) -> None:
        while True:
            try:
                command = self._commands.get(block=not self._engine.active)
            except queue.Empty:
                self._step()
                continue
            if command is None:
                return
            command()

    def _add(self, submission: Submission, request: Request) -> None:
        try:
            submission.key = self._engine.add(request)
        except InputError as error:
            submission.send(error)
        else:
            self._submissions[submission.key] = submission

    def _cancel(self, submission: Submission) -> None:
        if submission.key in self._submissions:
            del self._submissions[submission.key]
            self._engine.cancel(submission.key)

    def _fail_all(self) -> None:
        for submission in list(self._submissions.values()):
            self._cancel(submission)
            submission.send(ComputationError())

    def _step(self) -> None:
        try:
            pieces = self._engine.step()
        except Exception:
            logger.exception("the engine failed; its requests end with an error")
            self._fail_all()
            return
        for piece in pieces:
            self._submissions[piece.key].send(piece)
            if piece.finish_reason:
                del self._submissions[piece.key]
