"""Linear layer and cross-entropy in chunks: values and gradients against the reference."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pygpt import ops
from pygpt.ops import native
from pygpt.ops.chunked_cross_entropy import chunk_tokens
from tests.helpers.cross_entropy import IMPLS, cases, check, impls, inputs, run, set_chunk
from tests.helpers.parity import DEVICE, GPU_DTYPES, gpu


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


@cases
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("tokens", "width", "vocab", "chunk"),
    [
        (18, 32, 1000, 8),  # the last chunk is short
        (5, 16, 301, 128),  # a chunk longer than M
        (9, 24, 129, 1),
        (3, 8, 1, 2),
        (7, 16, 4097, 3),  # one column behind a block
    ],
)
def test_parity(
    impl: str,
    dtype: torch.dtype,
    reduction: str,
    tokens: int,
    width: int,
    vocab: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_chunk(monkeypatch, chunk, vocab, dtype)
    check(impl, *inputs(tokens, width, vocab, dtype), reduction=reduction)


@cases
def test_options(impl: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch, 5, 515, dtype)
    x, weight, targets = inputs(14, 16, 515, dtype)
    for reduction in ("mean", "none"):
        check(impl, x, weight, targets, reduction=reduction, z_loss=0.01)
        check(impl, x, weight, targets, reduction=reduction, label_smoothing=0.1)
    check(impl, x, weight, targets, z_loss=0.1, label_smoothing=1.0)
    check(impl, x, weight, targets.masked_fill(targets < 0, 7), ignore_index=7)


@cases
def test_random_shapes(impl: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, width, vocab, chunk = (int(n) for n in torch.randint(2, 60, (4,)))
    vocab = vocab**2
    set_chunk(monkeypatch, chunk, vocab, dtype)
    check(impl, *inputs(tokens, width, vocab, dtype))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="waits for a CPU alone")
@pytest.mark.parametrize("vocab", [50_304, 200_000])
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_large_vocabulary(vocab: int, dtype: torch.dtype) -> None:
    check("native", *inputs(4, 16, vocab, dtype), label_smoothing=0.1)


@cases
def test_huge_logits(impl: str, dtype: torch.dtype) -> None:
    """Logits to ±36,864, which are integers times 512 that every dtype holds: where they had to be
    rounded, the two largest of a row could change places, in eager as well."""
    _, _, targets = inputs(12, 8, 100)
    x = 512 * torch.randint(-3, 4, (12, 8), device=DEVICE).to(dtype)
    weight = torch.randint(-3, 4, (100, 8), device=DEVICE).to(dtype)
    check(impl, x, weight, targets, reduction="none")


@cases
def test_the_mean_is_exact_in_every_dtype(impl: str, dtype: torch.dtype) -> None:
    """1/384 is 0.2 % off in bf16; the errors of single elements cancel out over 12,288 of them."""
    x, weight, _ = inputs(384, 32, 64, dtype)
    targets = torch.randint(64, (384,), device=DEVICE)
    gradient, exact = (
        run(which, values, weight.to(values.dtype), targets)[1].double()
        for which, values in ((impl, x), ("eager", x.double()))
    )
    assert abs((gradient * exact).sum() / exact.square().sum() - 1) < 5e-4


@impls
def test_layouts(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch, 5, 200, torch.float32)
    x, weight, targets = inputs(26, 48, 200)
    check(impl, x[1::2, ::3], weight[:, 5:21], targets[1::2])
    check(impl, x.t().contiguous().t(), weight.t().contiguous().t(), targets)
    check(impl, x[:1].expand(26, 48), weight, targets)


@impls
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("tokens", [0, 6])
def test_no_target_at_all_is_as_in_eager(impl: str, reduction: str, tokens: int) -> None:
    x, weight, targets = inputs(tokens, 8, 30)
    targets = torch.full_like(targets, -100)
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
        got, eager = (
            run(which, x, weight, targets, reduction=reduction, **options)
            for which in (impl, "eager")
        )
        for mine, reference in zip(got, eager, strict=True):
            assert torch.equal(mine.nan_to_num(nan=7.0), reference.nan_to_num(nan=7.0))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="waits for a CPU: a GPU does not check")
@impls
@pytest.mark.parametrize("bad", [-1, 30, 2**40])
def test_target_out_of_range(impl: str, bad: int) -> None:
    x, weight, targets = inputs(6, 8, 30)
    targets[4] = bad
    with pytest.raises(IndexError, match=f"target {bad} at position 4 .* \\[0, 30\\)"):
        ops.linear_cross_entropy(x, weight, targets, impl=impl)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0), (100, 100), (2560, 2560), (4096, 2048), (8192, 2048), (8193, 2176), (32768, 2560)],
)
def test_chunks_are_of_about_the_same_length(tokens: int, expected: int) -> None:
    """In bf16 at V = 50,304 a GPU's budget is 2,668 tokens."""
    chunk = chunk_tokens(tokens, 50_304, 2, "cuda")
    assert chunk == expected
    assert -(-tokens // max(chunk, 1)) == -(-tokens // 2560)  # no more of them than there must be


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(0, 2560), (7.6, 2560), (11.7, 2560), (15.6, 2560), (23.5, 5248), (79.1, 18_560)],
)
def test_chunks_grow_with_the_memory_of_a_gpu(gib: float, expected: int) -> None:
    """What GPUs of 8, 12, 16, 24 and 80 GB report; at 12 GB the budget is 256 MiB."""
    assert chunk_tokens(10**6, 50_304, 2, "cuda", int(gib * 2**30)) == expected


@pytest.mark.parametrize(
    ("l2_mib", "processors", "rows", "expected"),
    [
        (50, 132, 2560, 390),  # an H100: 390 rows of 100,608 bytes fit into three quarters
        (50, 132, 100, 100),
        (36, 46, 2560, 281),  # an RTX 4070
        (6, 82, 2560, 2560),  # an RTX 3090, whose cache has no room for a row of each
    ],
)
def test_rows_in_flight_fit_into_the_second_level_cache(
    l2_mib: int, processors: int, rows: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pygpt.kernels import cross_entropy

    properties = SimpleNamespace(L2_cache_size=l2_mib << 20, multi_processor_count=processors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    logits = SimpleNamespace(
        shape=(rows, 50_304), device=torch.device("cuda"), element_size=lambda: 2
    )
    assert cross_entropy._programs(logits) == expected  # type: ignore[arg-type]


def test_programs_take_several_rows_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from pygpt.kernels import cross_entropy

    x, weight, targets = inputs(40, 16, 200)
    whole = ops.linear_cross_entropy(x, weight, targets, reduction="none", impl="triton")
    monkeypatch.setattr(cross_entropy, "_programs", lambda logits: 7)
    few = ops.linear_cross_entropy(x, weight, targets, reduction="none", impl="triton")
    assert torch.equal(whole, few)


def test_wrong_inputs() -> None:
    x, weight, targets = inputs(4, 8, 30)
    loss = ops.linear_cross_entropy
    with pytest.raises(ValueError, match=r"\(4, 8\) and weight \(30, 7\)"):
        loss(x, weight[:, 1:], targets)
    with pytest.raises(ValueError, match="torch.int32"):
        loss(x, weight, targets.int())
    with pytest.raises(ValueError, match="reduction='average'"):
        loss(x, weight, targets, reduction="average")
    with pytest.raises(ValueError, match="cast one or use autocast"):
        loss(x.bfloat16(), weight, targets)
    for impl in IMPLS:
        with pytest.raises(ValueError, match=f"impl='{impl}' takes .* not torch.float64"):
            loss(x.double(), weight.double(), targets, impl=impl)
    assert loss(x.double(), weight.double(), targets).dtype == torch.float64  # auto is eager here


@gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES)
def test_gpu_several_chunks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the weight: bf16 and fp16 products, added to fp32 sums chunk by chunk."""
    set_chunk(monkeypatch, 256, 2000, dtype)
    check("triton", *inputs(1000, 128, 2000, dtype))


@gpu
def test_gpu_range_is_checked_under_anomaly_detection() -> None:
    x, weight, targets = inputs(6, 8, 30)
    targets[4] = 30
    assert ops.linear_cross_entropy(x, weight, targets).isnan()
    with (
        torch.autograd.detect_anomaly(),
        pytest.raises(IndexError, match="target 30 at position 4"),
    ):
        ops.linear_cross_entropy(x, weight, targets)
