"""OpenAI's API: its own client, bad requests, limits, clients that go away."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="waits for the extra serve")

from pygpt.config import GPTConfig
from pygpt.inference.chat import Dialogue
from pygpt.inference.engine import Engine
from pygpt.inference.sampling import Sampling
from pygpt.inference.server.app import MAX_BODY
from pygpt.inference.server.engine_thread import MAX_ACTIVE
from pygpt.model import GPT
from pygpt.tokenizers.chat import Message
from tests.helpers.chat_model import TOKENIZER, writes
from tests.helpers.chat_server import ChatServer, eventually, serving

CONFIG = GPTConfig(block_size=256, vocab_size=320, n_layer=1, n_head=2, n_embd=32)
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    """Its model writes x for ever."""
    with serving(writes(ord("x"), CONFIG), max_new_tokens=8) as started:
        yield started


@pytest.fixture
def slow(server: ChatServer) -> Iterator[ChatServer]:
    """The same with 20 ms a step."""
    server.engine.seconds, server.engine.most_at_once = 0.02, 0
    yield server
    server.engine.seconds = 0.0
    eventually(lambda: server.engine.active == 0)


# --- OpenAI's client ------------------------------------------------------------------------------


@pytest.fixture
def client(server: ChatServer) -> Any:
    openai = pytest.importorskip("openai", reason="waits for openai")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_reply_whole_and_streamed(client: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=5)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "xxxxx")
    assert (choice.finish_reason, answer.model) == ("length", "tiny")
    n_prompt = len(TOKENIZER.encode_prompt([Message("user", "hi")]))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (n_prompt, 5)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HI, stream=True, max_completion_tokens=5,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas] == ["", *"xxxxx"]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 5


def test_completions_and_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "pygpt"
    for prompt in ("né", [1, 2, 3], ""):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=3)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("xxx", "length")
    stream = client.completions.create(model="tiny", prompt="a", max_tokens=3, stream=True)
    assert [chunk.choices[0].text for chunk in stream] == ["x", "x", "x"]
    answer = client.completions.create(model="tiny", prompt="a", stop=["xxx"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "stop")


def test_a_seed_gives_what_the_engine_gives(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    model = GPT(CONFIG).eval()
    messages = [Message("system", "né"), Message("user", "<|assistant|>")]
    with serving(model, seed=seed, system="né", sampling=Sampling(1.5)) as server:
        status, answer = server.chat(
            messages=[{"role": "user", "content": "<|assistant|>"}], max_tokens=40
        )
    assert status == 200
    dialogue = Dialogue(TOKENIZER, CONFIG.block_size, messages)
    engine = Engine(model, TOKENIZER)
    engine.add(dialogue.request(dialogue.prompt(40), Sampling(1.5), seed))
    text = ""
    while engine.active:
        text += "".join(piece.text for piece in engine.step())
    assert answer["choices"][0]["message"]["content"] == text


# --- bad requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        ("[" * 200_000, "the body is not JSON"),
        ('{"temperature": NaN}', "NaN is not a number"),
        ("[]", "must be a JSON object"),
        ({}, "messages must end with a message of the user"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": ["hi"]}, "a message is not an object"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "unknown role 'wizard'"),
        ({"messages": [{"role": "user"}]}, "has no 'content'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "end with a message of the user"),
        ({"messages": [{"role": "user", "content": "a" * 500}]}, "write a shorter message"),
        ({"messages": HI, "temperature": -1}, "temperature must be 0 .* got -1"),
        ({"messages": HI, "temperature": "hot"}, "temperature must be a number"),
        ({"messages": HI, "temperature": True}, "temperature must be a number"),
        ({"messages": HI, "temperature": 10**400}, "temperature must be"),
        ({"messages": HI, "top_p": 0}, "top_p must be in"),
        ({"messages": HI, "top_k": 0}, "top_k must be at least 1"),
        ({"messages": HI, "max_tokens": 0}, "max_tokens must be from 1 to 256"),
        ({"messages": HI, "max_completion_tokens": 10**9}, "from 1 to 256"),
        ({"messages": HI, "seed": -1}, "seed must be in"),
        ({"messages": HI, "stop": [""]}, "stop must be up to four strings"),
        ({"messages": HI, "stop": 5}, "stop must be up to four strings"),
        ({"messages": HI, "stream": "yes"}, "stream must be true or false"),
        ({"messages": HI, "n": 2}, "n is not supported"),
        ({"messages": HI, "tools": [{}]}, "tools is not supported"),
        ({"messages": HI, "path": "/etc/passwd"}, "unknown field 'path'"),
    ],
)
def test_bad_requests_are_refused_in_openais_form(
    server: ChatServer, body: Any, message: str
) -> None:
    status, answer, _ = server.request("POST", "/v1/chat/completions", body)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert re.search(message, answer["error"]["message"])


def test_fields_without_effect_and_defaults_pass(server: ChatServer) -> None:
    fields = {"user": "me", "n": 1, "presence_penalty": 0, "tools": None, "stop": None}
    assert server.chat(**fields)[0] == 200


def test_unknown_models_and_paths(server: ChatServer) -> None:
    status, answer = server.chat(model="gpt-5")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    for method, path, expected in (
        ("GET", "/v1/models/other", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/page/index.html", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/", 405),
    ):
        status, answer, _ = server.request(method, path)
        assert (status, answer["error"]["type"]) == (expected, "invalid_request_error")
    status, answer, _ = server.request("POST", "/v1/completions", {"prompt": [999]})
    assert (status, answer["error"]["message"]) == (400, "the model has the ids 0 to 260")
    status, answer, _ = server.request("POST", "/v1/completions", {"prompt": "a" * 256})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "127.0.0.1:9"}, 200),  # forwarded by ssh
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "attacker.example"}, 403),
        ({"Host": "127.0.0.1.attacker.example:80"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "http://attacker.example"}, 403),
        ({"Host": "localhost:1", "Origin": "null"}, 403),
    ],
)
def test_other_sites_are_refused(
    server: ChatServer, headers: dict[str, str], expected: int
) -> None:
    status, answer, _ = server.request("GET", "/v1/models", **headers)
    assert status == expected
    if expected == 403:
        assert answer["error"]["code"] in ("wrong_host", "wrong_origin")


# --- limits ---------------------------------------------------------------------------------------


def send_raw(
    server: ChatServer, head: str, chunk: bytes = b"", count: int = 0
) -> tuple[int, bytes, int]:
    """Status and body of the answer, 0 and b"" without one, and how many chunks were taken."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        line = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n"
        connection.sendall(line.encode())
        sent = 0
        try:
            for _ in range(count):
                connection.sendall(chunk)
                sent += 1
            answer = http.client.HTTPResponse(connection)
            answer.begin()
        except (OSError, http.client.HTTPException):
            return 0, b"", sent
        return answer.status, answer.read(), sent


def test_a_body_of_one_gigabyte_is_refused_unread(server: ChatServer) -> None:
    status, body, _ = send_raw(server, "Content-Length: 1000000000")
    assert status == 413
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_a_body_of_unknown_length_is_read_up_to_the_limit(server: ChatServer) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    status, _, sent = send_raw(server, "Transfer-Encoding: chunked", chunk, 15_000)  # 1 GB
    # Some megabytes more lie in the sockets' buffers when the connection is closed.
    assert sent * 65536 < MAX_BODY + 32 * 2**20
    assert status in (0, 413)
    assert server.chat()[0] == 200


def test_a_hundred_clients_at_once(slow: ChatServer) -> None:
    barrier = threading.Barrier(100)

    def ask(_: int) -> tuple[int, Any, Any]:
        barrier.wait()
        return slow.request("POST", "/v1/chat/completions", {"messages": HI, "max_tokens": 4})

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(ask, range(100)))
    served = [answer for status, answer, _ in answers if status == 200]
    refused = [(answer, headers) for status, answer, headers in answers if status == 503]
    assert len(served) + len(refused) == 100
    assert len(served) >= MAX_ACTIVE
    assert all(a["choices"][0]["message"]["content"] == "xxxx" for a in served)
    assert all(headers["Retry-After"] for _, headers in refused)
    assert all(answer["error"]["code"] == "overloaded" for answer, _ in refused)
    assert slow.engine.most_at_once == 8


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row(slow: ChatServer, stream: bool) -> None:
    body = json.dumps({"messages": HI, "max_tokens": 240, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", slow.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        eventually(lambda: slow.engine.active == 1)
        if stream:
            assert connection.recv(1)
    start = time.monotonic()
    eventually(lambda: slow.engine.active == 0)
    assert time.monotonic() - start < 240 * slow.engine.seconds / 2  # before its last token


def test_a_failure_of_the_engine_is_an_answer(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.engine.fails = True
    try:
        status, answer = server.chat()
    finally:
        server.engine.fails = False
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "out of memory" in caplog.text
    assert server.engine.active == 0
    assert server.chat()[0] == 200
