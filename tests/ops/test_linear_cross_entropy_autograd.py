"""Linear layer and cross-entropy under autograd, autocast, torch.compile and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pygpt import ops
from tests.helpers.cross_entropy import IMPLS, cases, impls, inputs, set_chunk
from tests.helpers.parity import DEVICE, GPU_DTYPES, check_parity, gpu


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


@cases
def test_autocast(impl: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 x and weight, GEMMs in autocast's dtype; the weight's gradient is in fp32."""
    set_chunk(monkeypatch, 8, 300, dtype)
    x, weight, targets = inputs(20, 32, 300)

    def loss(which: str) -> Callable[..., Tensor]:
        def run(x: Tensor, weight: Tensor) -> Tensor:
            with torch.autocast(DEVICE.type, dtype=dtype, enabled=dtype != torch.float32):
                return ops.linear_cross_entropy(x, weight, targets, impl=which)

        return run

    check_parity(loss(impl), loss("eager"), [x, weight])


@impls
def test_tied_embedding_and_accumulation(impl: str) -> None:
    """The embedding's own gradient joins the head's, over two micro-batches."""
    weight = torch.randn(50, 16, device=DEVICE)
    batches = [torch.randint(50, (2, 12), device=DEVICE) for _ in range(2)]

    def total(which: str) -> Callable[[Tensor], Tensor]:
        def run(weight: Tensor) -> Tensor:
            losses = [
                ops.linear_cross_entropy(weight[ids].tanh(), weight, targets, impl=which)
                for ids, targets in batches
            ]
            return torch.stack(losses).mean()

        return run

    check_parity(total(impl), total("eager"), [weight])


@impls
def test_only_what_needs_a_gradient(impl: str) -> None:
    x, weight, targets = inputs(6, 8, 30)
    for wanted in (x, weight):
        wanted.requires_grad_()
        for reduction in ("mean", "none"):
            loss = ops.linear_cross_entropy(x, weight, targets, impl=impl, reduction=reduction)
            loss.sum().backward()
        wanted.requires_grad_(False)
    assert x.grad is not None
    assert weight.grad is not None
    with torch.no_grad():
        assert not ops.linear_cross_entropy(x, weight, targets, impl=impl).requires_grad


@impls
def test_second_backward_is_an_error(impl: str) -> None:
    x, weight, targets = inputs(6, 8, 30)
    x.requires_grad_()
    loss = ops.linear_cross_entropy(x, weight, targets, impl=impl)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"second backward .* compute the loss again"):
        loss.backward()
    loss = ops.linear_cross_entropy(x, weight, targets, impl=impl)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)


@impls
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_each_token_has_carries_no_gradient(impl: str, reduction: str) -> None:
    x, weight, targets = inputs(6, 8, 30)
    for which in (impl, "eager"):
        loss, losses, lse = ops.linear_cross_entropy(
            x.requires_grad_(), weight, targets, impl=which, reduction=reduction,
            return_per_token=True,
        )  # fmt: skip
        assert loss.requires_grad
        assert not losses.requires_grad
        assert not lse.requires_grad
        whole = losses.sum() / (targets >= 0).sum() if reduction == "mean" else losses
        torch.testing.assert_close(loss.detach(), whole)


# --- torch.compile and torch.library --------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_without_a_graph_break(reduction: str, autocast: bool) -> None:
    x, weight, targets = inputs(20, 16, 100)

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=autocast):
            y = ops.linear_cross_entropy(x * 2, weight, targets, impl=IMPLS[0], reduction=reduction)
        return y.sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for _ in range(2):  # the second call takes the compiled graph again
        results = []
        for function in (loss, compiled):
            leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
            value = function(*leaves)
            results.append([value.detach(), *torch.autograd.grad(value, leaves)])
        for plain, traced in zip(*results, strict=True):
            assert torch.equal(plain, traced)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(reduction: str) -> None:
    # Without the test that compiles the bare operator and returns all its outputs: the backward
    # scales two of them in place, which only the wrapper, which keeps them to itself, may allow.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    x, weight, targets = inputs(9, 8, 30)
    x = x.t().contiguous().t()  # dense and permuted
    options = (torch.float32, -100, reduction, 0.0, 0.0, IMPLS[0], True, True)
    torch.library.opcheck(
        torch.ops.pygpt.linear_cross_entropy.default,
        (x.requires_grad_(), weight.requires_grad_(), targets, *options),
        test_utils=checks,
    )


@gpu
def test_no_host_sync() -> None:
    x, weight, targets = inputs(64, 32, 1000, torch.bfloat16)
    leaves = x.requires_grad_(), weight.requires_grad_()
    for reduction in ("mean", "none"):

        def step(reduction: str = reduction) -> None:
            loss = ops.linear_cross_entropy(x, weight, targets, reduction=reduction)
            torch.autograd.grad(loss.sum(), leaves)

        step()  # compiles the kernel
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@gpu
def test_cuda_graph_of_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch, 128, 1000, torch.bfloat16)
    x, weight, targets = inputs(300, 64, 1000, torch.bfloat16)
    leaves = x.requires_grad_(), weight.requires_grad_()

    def step() -> list[Tensor]:
        loss = ops.linear_cross_entropy(x, weight, targets)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and gives cuBLAS its memory
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        with torch.no_grad():
            x.normal_()
            targets.random_(1000)
        graph.replay()
        for replayed, direct in zip(captured, step(), strict=True):
            assert torch.equal(replayed, direct)


@gpu
@pytest.mark.parametrize("dtype", GPU_DTYPES)
def test_gpu_several_chunks_under_autocast(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk(monkeypatch, 256, 2000, dtype)
    x, weight, targets = inputs(1000, 128, 2000)

    def loss(which: str) -> Callable[..., Tensor]:
        def run(x: Tensor, weight: Tensor) -> Tensor:
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                return ops.linear_cross_entropy(x, weight, targets, impl=which)

        return run

    check_parity(loss("triton"), loss("eager"), [x, weight])
