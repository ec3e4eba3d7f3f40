"""The embedding: one operator under torch.compile, with the gradient of PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.training import parallel
from tests.helpers.parity import DEVICE


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)
    torch.compiler.reset()


def _gradient(function: object, idx: Tensor, weight: Tensor, upstream: Tensor) -> Tensor:
    leaf = weight.clone().requires_grad_()
    y = function(idx, leaf)  # type: ignore[operator]
    return torch.autograd.grad(y, leaf, upstream)[0]


def _capture(graphs: list[str]) -> object:
    def keep(graph: fx.GraphModule, _: object) -> object:
        graphs.append(graph.code)
        return graph.forward

    return aot_autograd(fw_compiler=keep, bw_compiler=keep)


def test_compiled_gradient_is_one_operator_with_eagers_bits() -> None:
    """Ids that come often, in fp32, where another order of additions shows."""
    idx = torch.randint(7, (4, 300), device=DEVICE)
    weight, upstream = torch.randn(50, 24, device=DEVICE), torch.randn(4, 300, 24, device=DEVICE)
    graphs: list[str] = []
    compiled = torch.compile(ops.embedding, backend=_capture(graphs), fullgraph=True)
    got = _gradient(compiled, idx, weight, upstream)
    assert torch.equal(got, _gradient(F.embedding, idx, weight, upstream))
    code = "".join(graphs)
    assert "pygpt.embedding" in code
    assert "pygpt.embedding_backward" in code
    assert not any(name in code for name in ("index_put", "scatter", "embedding_dense"))


def test_model_has_no_sum_in_any_order() -> None:
    """Of a whole training step: no operation that Inductor makes into atomic additions."""
    config = GPTConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=32)
    model = GPT(config).to(DEVICE)
    graphs: list[str] = []
    loss = torch.compile(model.loss, backend=_capture(graphs), fullgraph=True)
    x, y = torch.randint(64, (2, 2, 16), device=DEVICE)
    loss(x, y).backward()
    code = "".join(graphs)
    assert len(graphs) == 2
    assert not any(name in code for name in ("index_put", "scatter", "index_add"))


def test_without_compile_it_is_pytorchs() -> None:
    idx, weight = torch.randint(9, (3, 5)), torch.randn(9, 8, requires_grad=True)
    assert "EmbeddingBackward0" in str(ops.embedding(idx, weight).grad_fn)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_models_have_pytorchs(strict: bool) -> None:
    """Other programs have no operator of pygpt."""
    config = GPTConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=32)
    ids = torch.zeros(1, 8, dtype=torch.int64)
    exported = torch.export.export(GPT(config, "eager").eval(), (ids,), strict=strict)
    assert "aten.embedding" in exported.graph_module.code
    assert "pygpt" not in exported.graph_module.code


def test_operator_registration() -> None:
    idx = torch.randint(9, (3, 5), device=DEVICE)
    weight = torch.randn(9, 8, device=DEVICE, requires_grad=True)
    torch.library.opcheck(torch.ops.pygpt.embedding, (idx, weight))
    gradient = torch.randn(3, 5, 8, device=DEVICE)
    torch.library.opcheck(torch.ops.pygpt.embedding_backward, (gradient, idx, 9))


def test_training_compiles_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels chosen by rule, and code for each shape by itself."""
    given: list[dict[str, object]] = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: given.append(options) or function
    )
    config = GPTConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=32)
    parallel.parallelize(GPT(config), "none", torch.device("cpu"), compiled=True)
    assert given == [{"dynamic": False, "options": {"deterministic": True}}]
