"""Measure other launch configurations on this machine's card and keep those that win.

Run: ``python -m pygpt.tune --head-size 64 --width 768``

The kernels' configurations are fixed by default, so that a resumed run sums in the order in which
it began. The table written here is read only by runs that ask for it, by PYGPT_LAUNCH_TABLE; use
it from a run's first step on, or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.kernels import launch
from pygpt.ops.fused_loss import chunk_tokens
from pygpt.planning import gpu_timing
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.files import cache_directory

Call = Callable[[], object]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

MARGIN = 0.98
"""A configuration replaces the built-in one only if it takes less than this share of its time."""


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """Measure launch configurations on this card and store those that win.

    The table is read by every command whose environment variable PYGPT_LAUNCH_TABLE names it; use
    it from a run's first step on, or not at all. Give the shapes of your model and micro-batch.
    """

    head_size: int = 64
    """n_embd / n_head."""
    width: int = 768
    """n_embd."""
    vocab: int = GPTConfig.vocab_size
    """Rows of the embedding table."""
    positions: int = 1024
    """block_size."""
    batch: int = 8
    """Sequences in a micro-batch."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seconds: float = math.inf
    """Stop after about this long, shared out among the kernels; by default everything is tried."""
    out: Path | None = None
    """The table to write; by default launch-<card>.json in pygpt's cache directory."""


def main() -> None:
    """Entry point of ``python -m pygpt.tune``."""
    began = time.monotonic()
    config = cli.parse(TuneConfig, prog="python -m pygpt.tune")
    _check(config)
    if not torch.cuda.is_available():
        raise InputError("tuning measures a CUDA device, and this machine has none")
    path = config.out or _default_path()
    _try_writing(path)
    launch.use_table(None)  # what is to be beaten is the built-in table
    winners: dict[launch.Key, launch.Launch] = {}
    for winners in _tune(config, torch.device("cuda"), began + config.seconds):
        identity = f"{torch.cuda.get_device_name()}, {launch.identity(winners)}"
        launch.write_table(path, winners, identity)
    print(f"{len(winners)} configurations beat the built-in ones")
    if winners:
        print(f"to use them:\n  export PYGPT_LAUNCH_TABLE={shlex.quote(str(path))}")


def _check(config: TuneConfig) -> None:
    if not config.seconds > 0:
        raise InputError(f"--seconds {config.seconds} is no time to tune in; it must be above 0")
    for name in ("head_size", "width", "vocab", "positions", "batch"):
        value = getattr(config, name)
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    if config.width % config.head_size:
        raise InputError(f"--width {config.width} is no multiple of --head-size {config.head_size}")


def _default_path() -> Path:
    card = torch.cuda.get_device_name().replace(" ", "-")
    return cache_directory() / f"launch-{card}.json"


def _try_writing(path: Path) -> None:
    """Make the file, if it is not there, and its directory; what is in it stays.

    Raises:
        InputError: they can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise InputError(
            f"the table can't be written to {path} ({error.strerror}); name another file by --out"
        ) from error


def _tune(
    config: TuneConfig, device: torch.device, end: float
) -> Iterator[dict[launch.Key, launch.Launch]]:
    """The entries that another configuration beats, and that one: all so far, after each operator.

    Args:
        config: what to tune for.
        device: the card.
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
        for candidate in track(candidates, str(key), console=console, transient=True):
            if time.monotonic() > enough:
                break
            ms = _milliseconds(key, candidate, call)
            if ms < MARGIN * fixed_ms and ms < best_ms:
                best, best_ms = candidate, ms
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
    """The median time of a call with `entry`, or infinity where the card can't hold it."""
    from triton.runtime.errors import OutOfResources, PTXASError

    launch.use_entries({key: entry}, "tuning")
    try:
        return statistics.median(gpu_timing.milliseconds(call))
    except (OutOfResources, PTXASError):  # no room in shared memory, or in registers
        return math.inf


if __name__ == "__main__":
    cli.run(main)
