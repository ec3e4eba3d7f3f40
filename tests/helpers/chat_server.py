"""A chat server in a thread of the test's process."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from pygpt.inference.engine import Engine, Piece
from pygpt.inference.sampling import Sampling
from pygpt.inference.server.access import listen
from pygpt.inference.server.app import build_app
from pygpt.inference.server.engine_thread import EngineThread
from pygpt.inference.server.protocol import Served
from pygpt.model import GPT
from tests.helpers.chat_model import TOKENIZER


class SlowEngine(Engine):
    """Sleeps before each step, and counts what is at work."""

    seconds = 0.0
    most_at_once = 0
    fails = False

    def step(self) -> list[Piece]:
        time.sleep(self.seconds)
        if self.fails:
            raise RuntimeError("out of memory")
        pieces = super().step()
        self.most_at_once = max(self.most_at_once, len(pieces))
        return pieces


class ChatServer:
    """Where it listens, and its engine."""

    def __init__(self, engine: SlowEngine, port: int) -> None:
        self.engine, self.port = engine, port
        self.url = f"http://127.0.0.1:{port}"

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Status, JSON and headers of an answer. A dict is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text), answer.headers

    def chat(self, **fields: Any) -> tuple[int, Any]:
        """Status and JSON of a request for a reply."""
        fields = {"messages": [{"role": "user", "content": "hi"}], **fields}
        return self.request("POST", "/v1/chat/completions", fields)[:2]


@contextlib.contextmanager
def serving(model: GPT, **defaults: Any) -> Iterator[ChatServer]:
    """A server of a model with the byte tokenizer's chat template."""
    engine = SlowEngine(model, TOKENIZER)
    thread = EngineThread(engine)
    defaults = {"sampling": Sampling(), "max_new_tokens": 8, **defaults}
    served = Served("tiny", TOKENIZER, model.config.block_size, **defaults)
    app = build_app(thread, served, "127.0.0.1")
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    loop = threading.Thread(target=server.run, args=([listener],))
    loop.start()
    try:
        yield ChatServer(engine, listener.getsockname()[1])
    finally:
        server.should_exit = True
        loop.join()
        thread.stop()
        listener.close()


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
