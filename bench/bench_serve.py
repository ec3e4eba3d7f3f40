"""What the chat server adds to the engine: time to the first token, and tokens/s of 8 streams.

    python bench/bench_serve.py
    python bench/bench_serve.py --dtype bfloat16 --json FILE

The model has GPT-2's shape, the chat template and random weights: speed does not depend on their
values. ``chat --serve`` runs in a process of its own and is asked over HTTP, with streaming; the
engine runs in this process. Both read the same prompts with the same threads, and never at the
same time.

- ``first token``: from sending a request to its first text, engine and server in turn, in each
  round with a new prompt. The first text that is not empty is taken: an id can be a part of a
  UTF-8 character.
- ``streams``: tokens/s of all streams together, from the first request to the last token, reading
  the prompts included, for one stream and for 8 at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from lib import report
from lib.interleaved import Spread

from pygpt.config import GPTConfig
from pygpt.hub import huggingface
from pygpt.hub.export import export
from pygpt.inference.chat import Dialogue
from pygpt.inference.engine import Engine
from pygpt.inference.sampling import Sampling
from pygpt.model import GPT
from pygpt.planning.hardware import start_device
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.chat import Message

GPT2 = GPTConfig(block_size=1024, vocab_size=50304, n_layer=12, n_head=12, n_embd=768)
TOKENIZER = chat_tokenizer(get_tokenizer("gpt2"))
SAMPLING = Sampling(0.8, top_p=0.95)
WORDS = [
    "the",
    "a",
    "model",
    "of",
    "text",
    "that",
    "writes",
    "and",
    "reads",
    "what",
    "people",
    "say",
    "in",
    "some",
    "other",
    "place",
]


@dataclasses.dataclass(frozen=True)
class Options:
    """What the chat server adds to the engine: time to the first token, tokens/s of 8 streams."""

    prompt_words: int = 200
    """Words of a user's message, each a token."""
    new_tokens: int = 64
    """Tokens of a reply when streams are counted."""
    rounds: int = 15
    """How often the first token is timed on each side."""
    stream_rounds: int = 3
    """How often the streams are timed on each side."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the weights, as in the command."""
    json: Path | None = None
    """Where to write the figures."""


class Direct:
    """The engine in this process."""

    def __init__(self, directory: Path, dtype: Literal["auto", "float32", "bfloat16"]) -> None:
        model, _ = huggingface.load(directory, start_device("cpu"))
        self._engine = Engine(model.eval(), TOKENIZER, dtype=dtype)
        self.description = self._engine.description

    def _add(self, text: str, new_tokens: int, seed: int) -> None:
        dialogue = Dialogue(TOKENIZER, GPT2.block_size, [Message("user", text)])
        self._engine.add(dialogue.request(dialogue.prompt(new_tokens), SAMPLING, seed))

    def first_token(self, text: str) -> float:
        """Seconds to the first text."""
        start = time.perf_counter()
        self._add(text, 8, 1)
        while self._engine.active and not self._engine.step()[0].text:
            pass
        seconds = time.perf_counter() - start
        while self._engine.active:
            self._engine.step()
        return seconds

    def tokens_per_second(self, texts: list[str], new_tokens: int) -> float:
        """Of all texts at once."""
        start, n_tokens = time.perf_counter(), 0
        for seed, text in enumerate(texts):
            self._add(text, new_tokens, seed)
        while self._engine.active:
            n_tokens += len(self._engine.step())
        return n_tokens / (time.perf_counter() - start)


class Served:
    """The server, over HTTP."""

    def __init__(self, host: str) -> None:
        self._host = host

    def _events(self, text: str, new_tokens: int, seed: int) -> Iterator[dict[str, Any]]:
        body = {
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": new_tokens,
            "seed": seed,
        }
        with contextlib.closing(http.client.HTTPConnection(self._host)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            for line in connection.getresponse():
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    def first_token(self, text: str) -> float:
        """Seconds to the first text."""
        start, seconds = time.perf_counter(), 0.0
        for event in self._events(text, 8, 1):
            if event["choices"] and event["choices"][0]["delta"].get("content") and not seconds:
                seconds = time.perf_counter() - start
        return seconds

    def tokens_per_second(self, texts: list[str], new_tokens: int) -> float:
        """Of all texts at once, each asked for by a thread."""

        def ask(seed: int) -> int:
            *_, last = self._events(texts[seed], new_tokens, seed)
            return int(last["usage"]["completion_tokens"])

        with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
            start = time.perf_counter()
            n_tokens = sum(pool.map(ask, range(len(texts))))
            return n_tokens / (time.perf_counter() - start)


@contextlib.contextmanager
def serving(directory: Path, dtype: str) -> Iterator[Served]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "pygpt.chat", str(directory), "--serve", "--port", "0"]
    flags = ["--device", "cpu", "--dtype", dtype]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield Served(process.stdout.readline().split()[0].removeprefix("http://"))
        finally:
            process.terminate()


def measure(directory: Path, options: Options) -> dict[str, Any]:
    """Time both sides in turn and print the table."""

    def text() -> str:
        return " ".join(random.choices(WORDS, k=options.prompt_words))

    direct = Direct(directory, options.dtype)
    seconds: dict[str, list[float]] = {"engine": [], "server": []}
    rates: dict[str, list[float]] = {}
    with serving(directory, options.dtype) as served:
        sides = {"engine": direct, "server": served}
        for side in sides.values():
            side.first_token(text())
        for _ in range(options.rounds):
            prompt = text()
            for name in random.sample([*sides], 2):
                seconds[name].append(sides[name].first_token(prompt))
        for _ in range(options.stream_rounds):
            texts = [text() for _ in range(8)]
            for name, n in random.sample([(name, n) for name in sides for n in (1, 8)], 4):
                rate = sides[name].tokens_per_second(texts[:n], options.new_tokens)
                rates.setdefault(f"{name}, {n} at once", []).append(rate)
    ratio = Spread.of(s / e for s, e in zip(seconds["server"], seconds["engine"], strict=True))
    first = {name: Spread.of(1e3 * each for each in times) for name, times in seconds.items()}
    streams = {name: Spread.of(each) for name, each in sorted(rates.items())}
    rows = [
        *((f"first token, ms: {name}", *report.cells(each)) for name, each in first.items()),
        ("first token: server / engine", *report.cells(ratio, decimals=3)),
        *((f"tokens/s: {name}", *report.cells(each)) for name, each in streams.items()),
    ]
    title = f"124 M, {direct.description}: {report.headline(torch.device('cpu'))}"
    report.print_table(title, ("figure", "median", "20–80 %"), rows)
    return {
        "decoder": direct.description,
        "first_token_ms": {name: dataclasses.asdict(each) for name, each in first.items()},
        "first_token_ratio": dataclasses.asdict(ratio),
        "tokens_per_second": {name: dataclasses.asdict(each) for name, each in streams.items()},
    }


def main(options: Options) -> None:
    """Measure, print the table, write the figures."""
    # An exception, so that the server ends with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="pygpt-bench-") as folder:
        directory = Path(folder) / "model"
        export(GPT(GPT2, "eager"), TOKENIZER, directory, format="hf", dtype="float32", card="")
        figures = measure(directory, options)
    if options.json:
        fields = {"options": dataclasses.asdict(options), **figures}
        report.write_json(options.json, torch.device("cpu"), fields)


if __name__ == "__main__":
    main(tyro.cli(Options))
