"""Choosing an implementation, what an op refuses, and the ops under torch.compile."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.kernels import launch
from pygpt.model import GPT
from pygpt.ops import dispatch, native
from pygpt.ops.dispatch import Implementations, select
from pygpt.utils.errors import InputError
from tests.helpers.parity import DEVICE, assert_close_as_eager, gpu

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
KERNELS = "attention=triton,layer_norm=triton,gelu=triton,linear_cross_entropy=eager"


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


# --- selection ------------------------------------------------------------------------------------


def test_parse_one_for_all_and_op_by_op() -> None:
    assert Implementations.parse("eager") == Implementations(*["eager"] * 4)
    mixed = Implementations.parse("attention=eager, layer_norm=triton")
    assert mixed == Implementations(attention="eager", layer_norm="triton")
    assert Implementations.parse(str(mixed)) == mixed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("atention=eager", "no op 'atention'; the ops are attention, layer_norm"),
        ("cuda", "'cuda' is none of auto, eager, triton, native"),
        ("gelu=", "'' is none of"),
        ("", "'' is none of"),
    ],
)
def test_parse_refuses(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Implementations.parse(spec)


@pytest.mark.parametrize("op", ["attention", "layer_norm", "gelu"])
def test_auto_is_triton_on_a_card_and_eager_elsewhere(op: str) -> None:
    assert select(op, "auto", CUDA) == "triton"
    assert select(op, "auto", torch.device("mps")) == "eager"


@pytest.mark.parametrize("lacking", ["sm_80", "triton"])
def test_auto_where_triton_cannot_run_is_eager_with_one_notice(
    lacking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for cached in (dispatch._why_not_triton, dispatch.warn_once, launch.architecture):
        cached.cache_clear()
    if lacking == "triton":
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "triton" else find_spec(name)
        )
        why = "the triton package is not installed"
    else:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
        why = "Tesla T4 is sm_75 and the Triton kernels need sm_80 or newer"
    with caplog.at_level(logging.WARNING, "pygpt"):
        resolved = Implementations().resolve(CUDA, GPTConfig())
    assert resolved == Implementations(*["eager"] * 4)
    (message,) = (record.message for record in caplog.records)
    assert message.startswith(f"impl='auto' means eager on cuda: {why}")
    for cached in (dispatch._why_not_triton, launch.architecture):
        cached.cache_clear()


def test_auto_is_eager_for_what_the_kernels_are_too_small_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatch.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "pygpt"):
        resolved = Implementations().resolve(CUDA, GPTConfig(n_head=4, n_embd=768))
    assert (resolved.attention, resolved.layer_norm) == ("eager", "triton")
    (message,) = (record.message for record in caplog.records)
    assert message.endswith("the Triton kernel takes a head size up to 128 and this is 192")
    assert select("layer_norm", "auto", CUDA, 16385) == "eager"
    with pytest.raises(InputError, match="head size up to 128 and this is 192; take impl='auto'"):
        Implementations(attention="triton").resolve(CUDA, GPTConfig(n_head=4, n_embd=768))


@pytest.mark.parametrize("op", ["attention", "layer_norm", "gelu", "linear_cross_entropy"])
def test_auto_is_eager_for_other_dtypes(op: str) -> None:
    assert dispatch.choose(op, "auto", CUDA, torch.float64) == "eager"
    assert dispatch.choose(op, "auto", CUDA, torch.bfloat16) == "triton"
    with pytest.raises(ValueError, match="'triton' takes float32, float16, bfloat16, not .*64"):
        dispatch.choose(op, "triton", CUDA, torch.float64)


def test_asking_whether_triton_runs_is_no_graph_break() -> None:
    def halve_where_it_runs(x: Tensor) -> Tensor:
        return x / 2 if dispatch._triton_runs(x.device) else x

    compiled = torch.compile(halve_where_it_runs, fullgraph=True, backend="eager")
    assert torch.equal(compiled(_ones(3)), _ones(3) / 2)


def test_auto_on_a_cpu_goes_by_its_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = {"cuda": "triton", "generic": "native"}
    monkeypatch.setitem(dispatch._FASTEST, "gelu", fastest)
    monkeypatch.setattr(native, "levels", lambda: ("generic", "avx2"))
    monkeypatch.delenv("PYGPT_CPU_LEVEL", raising=False)
    assert select("gelu", "auto", CPU) == "eager"  # the best level, avx2, is not in the table
    assert select("gelu", "native", CPU) == "native"
    monkeypatch.setenv("PYGPT_CPU_LEVEL", "generic")
    assert select("gelu", "auto", CPU) == "native"
    monkeypatch.setenv("PYGPT_CPU_LEVEL", "avx512")
    with pytest.raises(InputError, match="PYGPT_CPU_LEVEL=avx512 can't run here; this CPU has"):
        select("gelu", "auto", CPU)


def test_auto_has_no_graph_break() -> None:
    x = torch.randn(4, 32)
    compiled = torch.compile(ops.gelu, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), ops.gelu(x), rtol=0, atol=0)


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert select("gelu", "triton", CPU) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(InputError, match="needs a CUDA device and the device is cpu; take impl="):
        select("gelu", "triton", CPU)


def test_unknown_implementation_is_refused() -> None:
    with pytest.raises(InputError, match="layer_norm has no implementation 'native'; it has auto"):
        select("layer_norm", "native", CPU)


# --- bad input ------------------------------------------------------------------------------------


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, device=DEVICE)


@pytest.mark.parametrize("impl", ["eager", "triton"])
def test_wrong_shapes_are_refused(impl: str) -> None:
    with pytest.raises(ValueError, match=r"qkv must be \(B, T, 3·C\), got \(2, 96\)"):
        ops.attention(_ones(2, 96), 2, impl=impl)
    with pytest.raises(ValueError, match="100 is not 3 × 2 heads"):
        ops.attention(_ones(1, 2, 100), 2, impl=impl)
    with pytest.raises(ValueError, match=r"q is \(B, 1, C\), got \(1, 2, 32\)"):
        ops.decode_attention(_ones(1, 2, 32), _ones(1, 4, 32), _ones(1, 4, 32), 2, impl=impl)
    with pytest.raises(ValueError, match="don't fit q"):
        ops.decode_attention(_ones(1, 1, 32), _ones(1, 4, 16), _ones(1, 4, 16), 2, impl=impl)
    with pytest.raises(ValueError, match=r"layer_norm: weight \(5,\) must be \(4,\)"):
        ops.layer_norm(_ones(2, 4), _ones(5), impl=impl)
    with pytest.raises(ValueError, match=r"layer_norm: bias \(1, 4\) must be \(4,\)"):
        ops.layer_norm(_ones(2, 4), _ones(4), _ones(1, 4), impl=impl)
    with pytest.raises(ValueError, match="x must be .*, got a scalar"):
        ops.layer_norm(torch.ones((), device=DEVICE), _ones(1), impl=impl)
    with pytest.raises(ValueError, match=r"x \(2, 4\) and residual \(1, 4\) differ"):
        ops.add_layer_norm(_ones(2, 4), _ones(1, 4), _ones(4), impl=impl)
    with pytest.raises(ValueError, match=r"gelu: bias \(3,\) must be \(4,\)"):
        ops.gelu(_ones(2, 4), _ones(3), impl=impl)
    with pytest.raises(ValueError, match="approximate='erf', not 'tanh'/'none'"):
        ops.gelu(_ones(2, 4), approximate="erf", impl=impl)


def test_mixed_devices_are_refused() -> None:
    elsewhere = torch.ones(4, device="meta")
    with pytest.raises(ValueError, match="layer_norm: operands are on different devices"):
        ops.layer_norm(_ones(2, 4), elsewhere, impl="eager")
    with pytest.raises(ValueError, match="gelu: operands are on different devices"):
        ops.gelu(_ones(2, 4), elsewhere, impl="eager")
    with pytest.raises(ValueError, match="linear_cross_entropy: operands are on different devices"):
        ops.linear_cross_entropy(
            _ones(2, 4), torch.ones(9, 4, device="meta"), _ones(2).long(), impl="eager"
        )
    targets = torch.ones(2, device="meta", dtype=torch.int64)
    with pytest.raises(ValueError, match="linear_cross_entropy: operands are on different devices"):
        ops.linear_cross_entropy(_ones(2, 4), _ones(9, 4), targets, impl="eager")


def test_dtypes_that_no_kernel_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="attention: impl='triton' takes .*, not torch.float64"):
        ops.attention(_ones(1, 2, 96).double(), 2, impl="triton")
    with pytest.raises(ValueError, match="weight is torch.float64 and the Triton kernel takes"):
        ops.layer_norm(_ones(2, 4), _ones(4).double(), impl="triton")
    with pytest.raises(
        ValueError, match="gelu: operands must be of a floating-point type, not torch.int64"
    ):
        ops.gelu(_ones(2, 4).long(), impl="triton")
    q = _ones(1, 1, 32)
    with pytest.raises(ValueError, match="q, k and v are .* they must agree"):
        ops.decode_attention(q, q.half(), q.half(), 2, impl="triton")


def test_second_derivative_is_refused() -> None:
    x = torch.randn(2, 96, device=DEVICE, requires_grad=True)
    calls: dict[str, Callable[[], Tensor]] = {
        "attention": lambda: ops.attention(x[None], 2, impl="triton"),
        "layer_norm": lambda: ops.layer_norm(x, _ones(96), impl="triton"),
        "gelu": lambda: ops.gelu(x, impl="triton"),
    }
    for op, call in calls.items():
        (gradient,) = torch.autograd.grad(call().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=f"{op}: the Triton kernel has no second derivative"):
            torch.autograd.grad(gradient.sum(), x)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the native ops run on a CPU")
def test_native_dropout_runs_eager_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    dispatch.warn_once.cache_clear()
    qkv = torch.randn(1, 8, 96)
    with caplog.at_level(logging.WARNING, "pygpt"):
        for _ in range(2):
            torch.manual_seed(0)
            dropped = ops.attention(qkv, 2, dropout=0.5, impl="native")
    assert [record.message for record in caplog.records] == [
        "attention: impl='native' has no dropout; it runs as impl='eager'"
    ]
    torch.manual_seed(0)
    assert torch.equal(dropped, ops.attention(qkv, 2, dropout=0.5, impl="eager"))


# --- a whole model --------------------------------------------------------------------------------


def _model(impl: str) -> GPT:
    torch.manual_seed(0)  # equal weights, whatever the implementation
    config = GPTConfig(vocab_size=50, block_size=20, n_layer=6, n_head=2, n_embd=32)
    return GPT(config, impl).to(DEVICE)


def _step(
    forward: Callable[..., tuple[Tensor, Tensor]], model: GPT, idx: Tensor, targets: Tensor
) -> list[Tensor]:
    """Logits, loss and every gradient."""
    logits, loss = forward(idx, targets)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [logits.detach(), loss.detach(), *gradients]


def _train(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """The loss after ten steps on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6)
    for _ in range(10):
        optimizer.zero_grad()
        torch.autograd.backward(model.loss(idx, targets))
        optimizer.step()
    return model.loss(idx, targets).detach()


def test_whole_model_and_ten_steps_agree_with_eager() -> None:
    """6 layers at an odd T: logits, loss and every gradient; then the loss after 10 steps."""
    idx, targets = torch.randint(50, (2, 1, 17), device=DEVICE)
    kernels, eager, exact = _model(KERNELS), _model("eager"), _model("eager").double()
    assert kernels.impl.attention == "triton"
    names = ["logits", "loss", *(name for name, _ in eager.named_parameters())]
    results = [_step(model, model, idx, targets) for model in (kernels, eager, exact)]
    for name, got, reference, truth in zip(names, *results, strict=True):
        assert_close_as_eager(got, reference, truth, 2.0 if name == "logits" else 3.0, name)

    got, reference, truth = (_train(model, idx, targets) for model in (kernels, eager, exact))
    assert_close_as_eager(got, reference, truth, 3.0, "loss after 10 steps")
    before = results[0][1]
    assert got < before - 0.1, "ten steps on one batch did not lower the loss"


def _check_autocast(config: GPTConfig, batch: int, T: int, dtype: torch.dtype) -> None:
    """A model of Triton kernels under autocast: as close to fp32 as eager under autocast is."""
    idx, targets = torch.randint(config.vocab_size, (2, batch, T), device=DEVICE)

    def results(impl: str, autocast: bool) -> list[Tensor]:
        torch.manual_seed(0)  # equal weights, whatever the implementation
        model = GPT(config, impl).to(DEVICE)
        with torch.autocast(DEVICE.type, dtype, enabled=autocast):
            logits = model.head(model.hidden(idx)[:, -8:]).detach()
            losses = model.loss(idx, targets, "none").detach()
            loss = model.loss(idx, targets)
        torch.testing.assert_close(loss.detach(), losses.mean())
        return [logits, losses, *torch.autograd.grad(loss, list(model.parameters()))]

    names = ["logits", "losses", *(name for name, _ in GPT(config).named_parameters())]
    kernels, eager, exact = results("triton", True), results("eager", True), results("eager", False)
    for name, got, reference, truth in zip(names, kernels, eager, exact, strict=True):
        assert got.dtype == reference.dtype
        factor = 2.0 if name in ("logits", "losses") else 3.0
        assert_close_as_eager(got, reference, truth.double(), factor, name)


def test_whole_model_under_autocast_is_as_close_as_eager() -> None:
    config = GPTConfig(vocab_size=80, block_size=40, n_layer=3, n_head=2, n_embd=48)
    _check_autocast(config, 2, 37, torch.float16)


@gpu
@pytest.mark.parametrize("bias", [True, False])
def test_gpu_whole_model_under_autocast_is_as_close_as_eager(bias: bool) -> None:
    """4,088 tokens: the loss takes two chunks, and adds the second's gradient to the first's."""
    config = GPTConfig(
        vocab_size=50_304, block_size=512, n_layer=4, n_head=6, n_embd=384, bias=bias
    )
    _check_autocast(config, 8, 511, torch.bfloat16)


def test_whole_model_compiles_without_a_graph_break() -> None:
    idx, targets = torch.randint(50, (2, 1, 9), device=DEVICE)
    model = _model(KERNELS)
    plain = _step(model, model, idx, targets)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = _step(compiled, model, idx, targets)
    for a, b in zip(plain, got, strict=True):
        torch.testing.assert_close(a, b)


def test_one_compilation_serves_every_length() -> None:
    compilations = 0

    def count(module: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        nonlocal compilations
        compilations += 1
        return module.forward

    def norm_and_attention(x: Tensor, weight: Tensor, qkv: Tensor) -> Tensor:
        normed, summed = ops.add_layer_norm(x, x, weight, impl="triton")
        y = ops.attention(qkv, 2, impl="triton") + ops.layer_norm(normed, weight, impl="triton")
        return ops.gelu(y, weight, impl="triton") + summed

    compiled = torch.compile(norm_and_attention, backend=count, dynamic=True, fullgraph=True)
    for T in (5, 9, 12, 33):
        x, qkv = torch.randn(2, T, 32, device=DEVICE), torch.randn(2, T, 96, device=DEVICE)
        compiled(x, torch.ones(32, device=DEVICE), qkv)
    assert compilations == 1


def test_compiled_attention_with_dropout_has_no_graph_break() -> None:
    qkv = torch.randn(1, 8, 96, device=DEVICE)
    compiled = torch.compile(
        lambda qkv: ops.attention(qkv, 2, dropout=0.5, impl="triton"),
        fullgraph=True,
        backend="eager",
    )
    assert compiled(qkv).shape == (1, 8, 32)


def test_importing_the_ops_does_not_import_the_compiler() -> None:
    program = "import sys, pygpt.ops; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
