"""Measure launch configurations of the kernels on a GPU and keep those that win."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from pygpt import ops
from pygpt.config.tune import TuneConfig
from pygpt.kernels import launch
from pygpt.ops.chunked_cross_entropy import chunk_tokens, gpu_memory
from pygpt.planning import gpu_timing, sass
from pygpt.utils.progress import ProgressBar

logger = logging.getLogger(__name__)

Call = Callable[[], object]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

ERRORS = 2.0
"""How many times as large as eager's an error may be; both beside eager in more bits."""

CHECKED_ROWS = 256
"""Of the logits: eager takes several times their memory."""

MARGIN = 0.98
"""A configuration replaces the built-in one only if it takes less than this share of its time."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One entry of the launch table to tune."""

    op: str
    size: int
    """Its size class."""
    call: Call
    """Launches it; what is timed."""
    results: Callable[[str, bool], list[Tensor]]
    """What the operator computes, by the implementation of that name, and whether from inputs of
    twice the width."""


def tune(
    config: TuneConfig, device: torch.device, end: float
) -> Iterator[dict[launch.Key, launch.Launch]]:
    """The entries that another configuration beats, and that one: all so far, after each operator.

    A configuration that does not compile is passed over, and the fastest one that computes what
    eager does, twice with the same bits, is taken.

    Args:
        config: what to tune for.
        device: the GPU.
        end: what time.monotonic() is when the time is over.

    Raises:
        RuntimeError: the GPU no longer answers.
    """
    console = Console(stderr=True)
    winners: dict[launch.Key, launch.Launch] = {}
    trials = list(_trials(config, device))
    bits = 8 * DTYPES[config.dtype].itemsize
    for i, trial in enumerate(trials):
        now = time.monotonic()
        if now > end:
            print(f"the time is over: {', '.join(trial.op for trial in trials[i:])} not tried")
            break
        enough = now + (end - now) / (len(trials) - i)
        key = launch.Key(launch.architecture(device), trial.op, trial.size, bits)
        fixed = launch.TABLE[key]
        fixed_ms = _milliseconds(key, fixed, trial.call)
        faster: list[tuple[float, int, launch.Launch]] = []
        candidates = list(_candidates(trial.op, trial.size, fixed))
        random.Random(0).shuffle(candidates)  # so that a few are of all kinds
        with ProgressBar(str(key), len(candidates), unit="launches", console=console) as bar:
            for number, candidate in enumerate(candidates):
                if time.monotonic() > enough:
                    break
                ms = _milliseconds(key, candidate, trial.call)
                if ms < MARGIN * fixed_ms:
                    faster.append((ms, number, candidate))
                bar.advance(1)
        best, best_ms = fixed, fixed_ms
        for ms, _, candidate in sorted(faster):
            fault = _fault(key, candidate, trial)
            if not fault:
                best, best_ms = candidate, ms
                winners[key] = best
                break
            print(f"{key}: {candidate} takes {ms:.3f} ms and is not taken: {fault}")
        print(f"{key}: {fixed_ms:.3f} ms → {best_ms:.3f} ms, {best}")
        yield winners


def _fault(key: launch.Key, entry: launch.Launch, trial: Trial) -> str:
    """What is wrong with what `entry` computes; "" if nothing is."""
    launch.use_entries({key: entry}, "tuning")
    got, again = (trial.results("triton", False) for _ in range(2))
    eager, exact = trial.results("eager", False), trial.results("eager", True)
    for result, repeated, reference, truth in zip(got, again, eager, exact, strict=True):
        if not torch.equal(result, repeated):
            return "the same call twice gives other bits"
        error, allowed = _largest(result - truth), ERRORS * _largest(reference - truth)
        allowed += torch.finfo(result.dtype).eps * _largest(truth)
        if not error <= allowed:  # NaN too
            return f"its error is {error:.1e}, and {allowed:.1e} would be allowed beside eager's"
    return ""


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _trials(config: TuneConfig, device: torch.device) -> Iterator[Trial]:
    """Every entry to tune.

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
    query, cache = draw(config.batch, 1, C), x.detach()

    def attention(impl: str, qkv: Tensor) -> Tensor:
        return ops.attention(qkv, n_head, impl=impl)

    def norm(impl: str, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.add_layer_norm(x, residual, weight, bias, impl=impl)[0]

    def gelu(impl: str, x: Tensor, bias: Tensor) -> Tensor:
        return ops.gelu(x, bias, impl=impl)

    def decode(impl: str, query: Tensor, cache: Tensor) -> Tensor:
        return ops.decode_attention(query, cache, cache, n_head, impl=impl)

    head, width = launch.head_class(config.head_size), launch.width_class(config.width)
    norm_inputs, gelu_inputs = (x, residual, weight, bias), (hidden, wide_bias)
    yield _forward("attention_forward", head, attention, qkv)
    for kernel in ("attention_dkdv", "attention_dq", "attention_delta"):
        yield _backward(kernel, head, attention, qkv)
    yield _forward("layer_norm_forward", width, norm, *norm_inputs)
    yield _backward("layer_norm_backward", width, norm, *norm_inputs)
    yield _forward("gelu_forward", 0, gelu, *gelu_inputs)
    yield _backward("gelu_backward", 0, gelu, *gelu_inputs)
    yield _cross_entropy(config, device)
    yield _forward("decode_attention", head, decode, query, cache)


def _forward(op: str, size: int, function: Callable[..., Tensor], *inputs: Tensor) -> Trial:
    def results(impl: str, wide: bool) -> list[Tensor]:
        with torch.no_grad():
            return [function(impl, *_inputs(inputs, wide))]

    return Trial(op, size, lambda: function("triton", *inputs), results)


def _backward(op: str, size: int, function: Callable[..., Tensor], *inputs: Tensor) -> Trial:
    y = function("triton", *inputs)
    upstream = torch.randn_like(y)

    def call() -> object:
        # Without the accumulation into .grad, which `backward` would add to the kernels' time.
        return torch.autograd.grad(y, inputs, upstream, retain_graph=True)

    def results(impl: str, wide: bool) -> list[Tensor]:
        leaves = [x.requires_grad_() for x in _inputs(inputs, wide)]
        result = function(impl, *leaves)
        return list(torch.autograd.grad(result, leaves, upstream.to(result.dtype)))

    return Trial(op, size, call, results)


def _inputs(inputs: Sequence[Tensor], wide: bool) -> list[Tensor]:
    """The inputs without their history; where `wide`, of at least twice as many bits as any has."""
    exact = torch.float32 if any(x.element_size() == 2 for x in inputs) else torch.float64
    return [x.detach().to(exact if wide else x.dtype) for x in inputs]


def _cross_entropy(config: TuneConfig, device: torch.device) -> Trial:
    """The row kernel over one chunk of logits, which it overwrites: the time is the same again."""
    from pygpt.kernels.cross_entropy import cross_entropy_rows

    dtype = DTYPES[config.dtype]
    tokens = chunk_tokens(
        config.batch * config.positions,
        config.vocab,
        dtype.itemsize,
        device.type,
        gpu_memory(device),
    )
    logits = torch.randn(tokens, config.vocab, device=device, dtype=dtype)
    targets = torch.randint(config.vocab, (tokens,), device=device)
    scratch, (loss, lse) = logits.clone(), torch.empty(2, tokens, device=device)

    def call() -> None:
        cross_entropy_rows(
            scratch, targets, loss, lse, None,
            ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True,
        )  # fmt: skip

    def results(impl: str, wide: bool) -> list[Tensor]:
        rows = slice(0, CHECKED_ROWS)
        if impl == "triton":
            scratch.copy_(logits)
            call()
            return [loss[rows].clone(), scratch[rows].clone()]
        (some,) = _inputs([logits[rows]], wide)
        losses = F.cross_entropy(some.requires_grad_().float(), targets[rows], reduction="none")
        return [losses.detach(), *torch.autograd.grad(losses.sum(), some)]

    return Trial("cross_entropy", 0, call, results)


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
    """The median time of a call with `entry`; infinity where the GPU can't run it rightly.

    Raises:
        RuntimeError: the GPU no longer answers, so that nothing can be measured any more.
    """
    launch.use_entries({key: entry}, "tuning")
    try:
        with _compiled_code() as cubins:
            median = statistics.median(gpu_timing.milliseconds(call))
    # Of Triton's passes, of LLVM, of ptxas, of the driver: their errors have no common base.
    except Exception as error:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # raises where the GPU's context is lost
        logger.debug("%s: %s failed: %s", key, entry, error)
        return math.inf
    if key.architecture == "sm_90" and any(map(_is_wrong, cubins)):
        return math.inf
    return median


def _is_wrong(cubin: bytes) -> bool:
    return bool(sass.overwritten_operands(sass.disassemble(cubin)))


@contextlib.contextmanager
def _compiled_code() -> Iterator[list[bytes]]:
    """Inside, the code of every kernel that Triton compiles or finds in its cache."""
    from triton import knobs

    found: list[bytes] = []

    def listen(*, metadata_group: dict[str, str], **_: object) -> None:
        found.extend(
            Path(path).read_bytes()
            for name, path in metadata_group.items()
            if name.endswith(".cubin")
        )

    before, knobs.compilation.listener = knobs.compilation.listener, listen
    try:
        yield found
    finally:
        knobs.compilation.listener = before
