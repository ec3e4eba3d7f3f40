"""What a command prints of a thread that failed."""

import logging
import threading

import pytest

from pygpt.utils import cli


def test_a_disk_that_fails_a_thread_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # set again afterwards
    tracebacks: list[object] = []
    monkeypatch.setattr(threading, "__excepthook__", tracebacks.append)

    def fail(error: Exception) -> None:
        raise error

    def main() -> None:
        for error in (OSError(28, "No space left on device"), ValueError("a bug")):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()

    with caplog.at_level(logging.WARNING):
        cli.run(main)
    assert caplog.messages == ["a thread ended: [Errno 28] No space left on device"]
    assert len(tracebacks) == 1
