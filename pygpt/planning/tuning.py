"""Measure launch configurations of the kernels on a GPU and keep those that win."""

from __future__ import annotations

import functools
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from torch import Tensor

from pygpt import ops
from pygpt.config.tune import TuneConfig
from pygpt.kernels import launch
from pygpt.ops.chunked_cross_entropy import chunk_tokens
from pygpt.planning import gpu_timing
from pygpt.utils.progress import ProgressBar

Call = Callable[[], object]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

MARGIN = 0.98
"""A configuration replaces the built-in one only if it takes less than this share of its time."""


def tune(
    config: TuneConfig, device: torch.device, end: float
) -> Iterator[dict[launch.Key, launch.Launch]]:
    """The entries that another configuration beats, and that one: all so far, after each operator.

    Args:
        config: what to tune for.
        device: the GPU.
        end: what time.monotonic() is when the time is over.
    """
    console = Console(stderr=True)
    winners: dict[launch.Key, launch.Launch] = {}
    calls = list(_calls(config, device))
    bits = 8 * DTYPES[config.dtype].itemsize
    for i, (op, size, call) in enumerate(calls):
        now = time.monotonic()
        if now > end:
            print(f"the time is over: {', '.join(op for op, *_ in calls[i:])} not tried")
            break
        enough = now + (end - now) / (len(calls) - i)
        key = launch.Key(launch.architecture(device), op, size, bits)
        fixed = launch.TABLE[key]
        best, best_ms = fixed, _milliseconds(key, fixed, call)
        fixed_ms = best_ms
        candidates = list(_candidates(op, size, fixed))
        random.Random(0).shuffle(candidates)  # so that a few are of all kinds
        with ProgressBar(str(key), len(candidates), unit="launches", console=console) as bar:
            for candidate in candidates:
                if time.monotonic() > enough:
                    break
                ms = _milliseconds(key, candidate, call)
                if ms < MARGIN * fixed_ms and ms < best_ms:
                    best, best_ms = candidate, ms
                bar.advance(1)
        print(f"{key}: {fixed_ms:.3f} ms → {best_ms:.3f} ms, {best}")
        if best != fixed:
            winners[key] = best
        yield winners


def _calls(config: TuneConfig, device: torch.device) -> Iterator[tuple[str, int, Call]]:
    """(operator, size class, a call that launches it) of every entry to tune.

    The three kernels of attention's backward are timed within it, one varied at a time.
    """
    shape = (config.batch, config.positions)

    def draw(*size: int, dtype: torch.dtype = DTYPES[config.dtype]) -> Tensor:
        return torch.randn(size, device=device, dtype=dtype, requires_grad=True)

    C, n_head = config.width, config.width // config.head_size
    qkv, x, hidden = draw(*shape, 3 * C), draw(*shape, C), draw(*shape, 4 * C)
    residual = draw(*shape, C, dtype=torch.float32)  # as under autocast; so are the parameters
    weight, bias = draw(C, dtype=torch.float32), draw(C, dtype=torch.float32)
    wide_bias = draw(4 * C, dtype=torch.float32)
    query, cache = draw(config.batch, 1, C).detach(), x.detach()

    def attention() -> Tensor:
        return ops.attention(qkv, n_head, impl="triton")

    def norm() -> Tensor:
        return ops.add_layer_norm(x, residual, weight, bias, impl="triton")[0]

    def gelu() -> Tensor:
        return ops.gelu(hidden, wide_bias, impl="triton")

    def decode() -> Tensor:
        return ops.decode_attention(query, cache, cache, n_head, impl="triton")

    head, width = launch.head_class(config.head_size), launch.width_class(config.width)
    yield "attention_forward", head, attention
    for kernel in ("attention_dkdv", "attention_dq", "attention_delta"):
        yield kernel, head, _backward_of(attention, qkv)
    yield "layer_norm_forward", width, norm
    yield "layer_norm_backward", width, _backward_of(norm, x, residual, weight, bias)
    yield "gelu_forward", 0, gelu
    yield "gelu_backward", 0, _backward_of(gelu, hidden, wide_bias)
    yield "cross_entropy", 0, _cross_entropy(config, device)
    yield "decode_attention", head, decode


def _cross_entropy(config: TuneConfig, device: torch.device) -> Call:
    """The row kernel over one chunk of logits, which it overwrites: the time is the same again."""
    from pygpt.kernels.cross_entropy import cross_entropy_rows

    dtype = DTYPES[config.dtype]
    tokens = chunk_tokens(
        config.batch * config.positions, config.vocab, dtype.itemsize, device.type
    )
    logits = torch.randn(tokens, config.vocab, device=device, dtype=dtype)
    targets = torch.randint(config.vocab, (tokens,), device=device)
    loss, lse = torch.empty(2, tokens, device=device)
    return functools.partial(
        cross_entropy_rows, logits, targets, loss, lse, None,
        ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
    )  # fmt: skip


def _backward_of(forward: Callable[[], Tensor], *inputs: Tensor) -> Call:
    y = forward()
    upstream = torch.randn_like(y)
    # Without the accumulation into .grad, which `backward` would add to the kernels' time.
    return lambda: torch.autograd.grad(y, inputs, upstream, retain_graph=True)


def _candidates(op: str, size: int, fixed: launch.Launch) -> Iterator[launch.Launch]:
    if op == "attention_delta":
        for rows, warps in itertools.product((32, 64, 128, 256), (2, 4, 8)):
            yield launch.Launch(rows, 0, warps)
    elif op == "cross_entropy":
        for columns, warps in itertools.product((1024, 2048, 4096, 8192, 16384), (4, 8, 16, 32)):
            if columns >= 32 * warps:
                yield launch.Launch(1, columns, warps)
    elif op == "decode_attention":
        for columns, warps in itertools.product((16, 32, 64, 128, 256), (1, 2, 4, 8)):
            yield launch.Launch(1, columns, warps)
    elif op.startswith("attention"):
        tiles = (32, 64, 128)
        for rows, columns, warps, stages in itertools.product(tiles, tiles, (4, 8), (2, 3, 4)):
            yield launch.Launch(rows, columns, warps, stages)
    else:
        widths = [size] if size else [128, 256, 512, 1024]
        elements = [1024, 2048, 4096, 8192]
        programs = sorted({fixed.programs, 2 * fixed.programs})
        for columns, tile, warps, count in itertools.product(
            widths, elements, [1, 2, 4, 8], programs
        ):
            if tile >= columns:
                yield launch.Launch(tile // columns, columns, warps, programs=count)


def _milliseconds(key: launch.Key, entry: launch.Launch, call: Call) -> float:
    """The median time of a call with `entry`, or infinity where the GPU can't hold it."""
    from triton.runtime.errors import OutOfResources, PTXASError

    launch.use_entries({key: entry}, "tuning")
    try:
        return statistics.median(gpu_timing.milliseconds(call))
    except (OutOfResources, PTXASError):  # no room in shared memory, or in registers
        return math.inf
