"""The native CPU ops at every instruction-set level that this CPU runs."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt import ops
from pygpt.ops import native
from pygpt.ops.attention import attention_native
from pygpt.ops.gelu import gelu_native
from pygpt.utils.errors import InputError
from tests.helpers.parity import assert_close_as_eager, check_parity

levels = pytest.mark.parametrize("level", native.levels())
dtypes = pytest.mark.parametrize("dtype", native.DTYPES)


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


def _check_threads_do_not_matter(call: Callable[[], tuple[Tensor, ...]]) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            results.append(call())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def _rows(
    logits: Tensor, targets: Tensor, level: str, *, gradient: bool = True, smoothing: float = 0.1
) -> tuple[Tensor, Tensor]:
    loss, lse = torch.empty(2, len(logits))
    native.cross_entropy_rows(
        logits, targets, loss, lse, None,
        ignore_index=-100, z_loss=0.01, label_smoothing=smoothing, gradient=gradient, level=level,
    )  # fmt: skip
    return loss, lse


def _eager(logits: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, lse and gradient in `dtype`; the gradient, unless of fp64, in the logits' dtype."""
    leaf = logits.to(dtype).requires_grad_()
    lse = leaf.logsumexp(dim=1)
    loss = F.cross_entropy(leaf, targets, reduction="none", label_smoothing=0.1)
    loss = loss + 0.01 * lse.square().masked_fill(targets == -100, 0.0)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    rounded = gradient if dtype == torch.float64 else gradient.to(logits.dtype)
    return loss.detach(), lse.detach(), rounded


def _check(logits: Tensor, targets: Tensor, level: str) -> None:
    reference = _eager(logits, targets, torch.float32)
    truth = _eager(logits, targets, torch.float64)
    before = logits.clone()
    loss, lse = _rows(logits, targets, level, gradient=False)
    assert torch.equal(logits, before)
    assert all(map(torch.equal, _rows(logits, targets, level), (loss, lse)))
    for name, got, near, exact in zip(
        ("loss", "lse", "gradient"), (loss, lse, logits), reference, truth, strict=True
    ):
        assert_close_as_eager(got, near, exact, 3.0 if name == "gradient" else 2.0, name)


@levels
@dtypes
@pytest.mark.parametrize("vocab", [1, 2, 31, 33, 1024, 1025, 50_257])
def test_rows(vocab: int, dtype: torch.dtype, level: str) -> None:
    targets = torch.randint(vocab, (7,))
    targets[3] = -100
    _check((torch.randn(7, vocab) * 3).to(dtype), targets, level)


@levels
@dtypes
def test_rows_of_a_wider_unaligned_buffer(dtype: torch.dtype, level: str) -> None:
    buffer = torch.randn(9, 777).to(dtype)
    before = buffer.clone()
    _check(buffer[2:7, 5:700], torch.randint(695, (5,)), level)
    before[2:7, 5:700] = buffer[2:7, 5:700]
    assert torch.equal(buffer, before)  # nothing outside was touched


@levels
@dtypes
@pytest.mark.parametrize("magnitude", [1e4, 1e30])
def test_huge_logits(magnitude: float, dtype: torch.dtype, level: str) -> None:
    logits = (torch.randn(5, 300) * magnitude).to(dtype)
    targets = logits.argmax(dim=1)  # elsewhere the loss itself is as huge, and 0.01·lse² overflows
    truth = F.cross_entropy(logits.double(), targets, reduction="none")
    loss = torch.empty(5)
    native.cross_entropy_rows(
        logits, targets, loss, torch.empty(5), None,
        ignore_index=-100, z_loss=0.0, label_smoothing=0.0, gradient=True, level=level,
    )  # fmt: skip
    torch.testing.assert_close(loss.double(), truth, atol=1e-6, rtol=1e-6)
    assert logits.isfinite().all()


@dtypes
def test_levels_agree_and_threads_do_not_matter(dtype: torch.dtype) -> None:
    logits = torch.randn(211, 5000).to(dtype)  # enough for four threads to be started
    targets = torch.randint(5000, (211,))
    for level in native.levels():

        def call(level: str = level) -> tuple[Tensor, ...]:
            tile = logits.clone()
            return (*_rows(tile, targets, level), tile)

        _check_threads_do_not_matter(call)


@levels
@pytest.mark.parametrize("size", [0, 1, 100, 1_000_003])
def test_accumulate(size: int, level: str) -> None:
    total, addend = torch.randn(size), torch.randn(size).bfloat16()
    expected = total + addend
    native.accumulate(total, addend, level=level)
    assert torch.equal(total, expected)


# --- GELU -----------------------------------------------------------------------------------------


def _check_gelu(level: str, *inputs: Tensor | None) -> None:
    check_parity(
        lambda x, bias: gelu_native(x, bias, level=level),
        lambda x, bias: ops.gelu(x, bias, impl="eager"),
        inputs,
    )


@levels
@dtypes
@pytest.mark.parametrize("shape", [(2, 9, 384), (1, 1, 1), (70, 33), (130, 31), (0, 8), (3, 0)])
def test_gelu(shape: tuple[int, ...], dtype: torch.dtype, level: str) -> None:
    x, bias = torch.randn(shape) * 2, torch.randn(shape[-1])
    if x.numel() == 1:
        # Quarters, which bf16 holds, and their sums: eager rounds x + bias to x's dtype, and of a
        # single element near GELU's minimum that may leave no digit of the gradient.
        x, bias = (x * 4).round() / 4, (bias * 4).round() / 4
    # In fp32, as a master weight is; both implementations take the bias in x's dtype.
    _check_gelu(level, x.to(dtype), bias.to(dtype).float())
    _check_gelu(level, x.to(dtype), None)


@levels
@dtypes
def test_gelu_of_any_layout_and_magnitude(dtype: torch.dtype, level: str) -> None:
    buffer = torch.randn(20, 300).to(dtype)
    bias = torch.randn(200)[::2].to(dtype)
    _check_gelu(level, buffer[1:, 7:107], bias)
    _check_gelu(level, buffer.t()[:100].contiguous().t(), bias)
    _check_gelu(level, buffer[:1, :100].expand(4, 5, 100), bias)
    for value in (1e4, -1e4, 30, -30, 5, -5, 0, -0.0, 1e-20):  # alone: none hides behind another
        _check_gelu(level, torch.tensor([[value]]).to(dtype), None)
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30], dtype=dtype)
    got, eager = gelu_native(x, level=level), F.gelu(x, approximate="tanh")
    assert torch.equal(got.nan_to_num(nan=-7.0), eager.nan_to_num(nan=-7.0))


@levels
def test_gelu_threads_do_not_matter(level: str) -> None:
    x, bias, dy = torch.randn(1500, 700), torch.randn(700), torch.randn(1500, 700)

    def call() -> tuple[Tensor, ...]:
        y = gelu_native(x, bias, level=level)
        return (y, *torch.ops.pygpt.gelu_native_backward(dy, x, bias, level))

    _check_threads_do_not_matter(call)


def test_gelu_in_torch() -> None:
    x, bias = torch.randn(6, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    torch.library.opcheck(torch.ops.pygpt.gelu_native.default, (x, bias, ""))
    compiled = torch.compile(ops.gelu, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, bias, impl="native"), ops.gelu(x, bias, impl="native"))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(ops.gelu(x, bias, impl="native").sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="impl='native' takes float32, bfloat16, not"):
        ops.gelu(x.double(), impl="native")
    with pytest.raises(ValueError, match="takes approximate='tanh'; take impl='eager'"):
        ops.gelu(x, impl="native", approximate="none")
    assert ops.gelu(x.double()).dtype == torch.float64  # auto is eager here


# --- attention ------------------------------------------------------------------------------------


def _check_attention(level: str, qkv: Tensor, n_head: int) -> None:
    check_parity(
        lambda qkv: attention_native(qkv, n_head, level=level),
        lambda qkv: ops.attention(qkv, n_head, impl="eager"),
        [qkv],
    )


@levels
@pytest.mark.parametrize(
    ("shape", "n_head"),
    [((2, 64, 96), 1), ((3, 1, 96), 2), ((1, 77, 120), 1), ((2, 130, 384), 2), ((0, 4, 96), 1)],
)
def test_attention(shape: tuple[int, ...], n_head: int, level: str) -> None:
    _check_attention(level, torch.randn(shape).bfloat16(), n_head)
    # Scores of up to a hundred, of which bf16 would keep three digits.
    _check_attention(level, (3 * torch.randn(shape)).bfloat16(), n_head)


@levels
def test_attention_in_groups_of_heads(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    qkv, dy = torch.randn(2, 40, 3 * 64).bfloat16(), torch.randn(2, 40, 64).bfloat16()
    at_once = torch.ops.pygpt.attention_native_backward(dy, qkv, 4, level)
    monkeypatch.setattr(
        sys.modules["pygpt.ops.attention"], "GROUP_SCORES", 3 * 40 * 40
    )  # 8 heads by 3, 3 and 2
    assert torch.equal(torch.ops.pygpt.attention_native_backward(dy, qkv, 4, level), at_once)


@levels
def test_attention_of_any_layout(level: str) -> None:
    buffer = torch.randn(2, 60, 200).bfloat16()
    _check_attention(level, buffer[:, 5:38, 3:195], 2)
    _check_attention(level, buffer.transpose(1, 2)[:, :, :48], 2)


@levels
def test_nan_reaches_all_that_see_it_and_nothing_else(level: str) -> None:
    qkv, dy = torch.randn(1, 50, 96).bfloat16(), torch.randn(1, 50, 32).bfloat16()
    qkv[0, 20, 0] = float("nan")  # a query: its own row of scores
    dq, dk, dv = torch.ops.pygpt.attention_native_backward(dy, qkv, 1, level)[0].chunk(3, dim=1)
    assert dq[20].isnan().all()
    assert dq[:20].isfinite().all()
    assert dq[21:].isfinite().all()
    assert dk[:21].isnan().any(dim=1).all()
    assert dv[:21].isnan().all()
    assert dv[32:].isfinite().all()  # no vector of keys of which some are seen reaches there


@levels
def test_attention_threads_do_not_matter(level: str) -> None:
    qkv, dy = torch.randn(2, 300, 3 * 64).bfloat16(), torch.randn(2, 300, 64).bfloat16()
    scores, gradient = torch.randn(4, 304, 304), torch.randn(4, 304, 304).bfloat16()

    def call() -> tuple[Tensor, ...]:
        weights, dscores = torch.full_like(gradient, float("nan")), gradient.clone()
        native.attention_backward_rows(scores.clone(), weights, dscores, scale=0.1, level=level)
        return weights, dscores

    _check_threads_do_not_matter(call)
    once, twice = (torch.ops.pygpt.attention_native_backward(dy, qkv, 2, level) for _ in range(2))
    assert torch.equal(once, twice)


def test_attention_in_torch() -> None:
    qkv = torch.randn(2, 24, 96).bfloat16().requires_grad_()
    torch.library.opcheck(torch.ops.pygpt.attention_native.default, (qkv, 2, ""))
    compiled = torch.compile(ops.attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(qkv, 2, impl="native"), ops.attention(qkv, 2, impl="native"))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(ops.attention(qkv, 2, impl="native").sum(), qkv, create_graph=True)
    precision = torch.backends.mkldnn.matmul.fp32_precision
    ops.attention(qkv, 2, impl="native").sum().backward()
    assert torch.backends.mkldnn.matmul.fp32_precision == precision


def test_wrong_tiles_of_attention() -> None:
    scores, weights = torch.randn(2, 16, 16), torch.randn(2, 16, 16).bfloat16()
    call = native.attention_backward_rows
    call(scores, weights, weights.clone(), scale=1.0)
    with pytest.raises(ValueError, match=r"scores must be \(2, 16, 16\), torch.float32"):
        call(weights, weights, weights, scale=1.0)
    with pytest.raises(ValueError, match="gradient must be .* stride"):
        call(scores, weights, weights.mT, scale=1.0)
    with pytest.raises(ValueError, match="15 positions are not a multiple of 16"):
        call(*(x[:, :15, :15].contiguous() for x in (scores, weights, weights)), scale=1.0)
    with pytest.raises(ValueError, match=r"scale must be above 0, got 0.0"):
        call(scores, weights, weights, scale=0.0)


# --- errors and levels ----------------------------------------------------------------------------


@levels
def test_every_byte_is_read(level: str, seed: int) -> None:
    torch.manual_seed(seed)
    for size in (0, 3, 8, 4_093, 300_001):
        memory = torch.randint(256, (size,), dtype=torch.uint8)
        padded = bytes(memory.tolist()) + bytes(-size % 8)
        words = (int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8))
        expected = functools.reduce(operator.xor, words, 0)
        for piece in (8, 4_096, 1 << 20):
            assert native.read_memory(memory, piece, level=level) == expected
    with pytest.raises(ValueError, match="a multiple of 8, got 12"):
        native.read_memory(torch.zeros(3), 12)


def test_wrong_inputs() -> None:
    logits, targets, row = torch.randn(3, 5), torch.zeros(3, dtype=torch.int64), torch.empty(3)

    def call(**changes: Tensor | str) -> None:
        operands = {
            "logits": logits,
            "targets": targets,
            "loss": row,
            "lse": row,
            "row_weight": None,
        }
        options = {"ignore_index": -100, "z_loss": 0.0, "label_smoothing": 0.0, "gradient": False}
        native.cross_entropy_rows(**{**operands, **options, **changes})  # type: ignore[arg-type]

    call()
    with pytest.raises(ValueError, match="not torch.float16"):
        call(logits=logits.half())
    with pytest.raises(ValueError, match="stride 3, not 1"):
        call(logits=torch.randn(5, 3).t())
    with pytest.raises(ValueError, match=r"targets must be \(3,\), torch.int64"):
        call(targets=targets.int())
    with pytest.raises(ValueError, match=r"loss must be .* stride \(2,\)"):
        call(loss=torch.empty(6)[::2])
    with pytest.raises(ValueError, match="level 'sse9' can't run here; this CPU has generic"):
        call(level="sse9")
    with pytest.raises(ValueError, match="adds bf16 to fp32"):
        native.accumulate(row, row)


def test_level_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    total, addend = torch.zeros(3), torch.ones(3).bfloat16()
    monkeypatch.setenv("PYGPT_CPU_LEVEL", "generic")
    assert native.default_level() == "generic"
    native.accumulate(total, addend)
    assert torch.equal(total, torch.ones(3))
    monkeypatch.setenv("PYGPT_CPU_LEVEL", "sse9")
    with pytest.raises(InputError, match="PYGPT_CPU_LEVEL=sse9 can't run here; this CPU has gene"):
        native.accumulate(total, addend)
