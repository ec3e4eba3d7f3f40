"""What linear_cross_entropy is for: little memory, and the same training as eager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pygpt import ops
from tests.helpers.cross_entropy import impls
from tests.helpers.parity import DEVICE


@pytest.fixture(autouse=True)
def _fresh(seed: int) -> None:
    torch.manual_seed(seed)


_PEAK = """
import torch
import torch._dynamo  # imported by the first call of any custom op: not the op's own memory
from pygpt import ops

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

x = torch.randn(8192, 384, dtype=torch.bfloat16, requires_grad=True)
weight = torch.randn(50304, 384, requires_grad=True)
targets = torch.randint(50304, (8192,))
torch.mm(torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16())  # oneDNN's own memory
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts here
with torch.autocast("cpu", torch.bfloat16):
    loss = ops.linear_cross_entropy(x, weight, targets, impl="native")
loss.backward()
print(status("VmHWM") - before)
"""


def _cpu_has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text(encoding="utf-8")


@pytest.mark.skipif(
    not _cpu_has_bf16(),
    reason="waits for Linux on a CPU with bf16 products; emulated they take minutes, and memory",
)
@pytest.mark.slow
def test_peak_memory() -> None:
    """8,192 tokens at V = 50,304, 384 wide, the fp32 gradient of the weight included.

    The requirement is 512 MB. 237 MB were measured, whatever the number of threads, so that 300
    also show what is held twice: the weight's gradient alone is 77 MB.
    """
    run = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 300e6, f"{int(run.stdout) / 1e6:.0f} MB"


@impls
def test_the_loss_curve_is_eagers(impl: str) -> None:
    """Steps of a small tied model: fused against eager differ less than two seeds do."""
    interpreted = impl == "triton" and DEVICE.type == "cpu"  # a row takes milliseconds
    vocab, width, tokens, steps = (31, 16, 16, 80) if interpreted else (97, 32, 64, 200)
    successor = torch.randperm(vocab)

    def curve(impl: str, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.nn.Parameter(torch.randn(vocab, width, generator=generator) * 0.1)
        hidden = torch.nn.Parameter(torch.randn(width, width, generator=generator) * 0.1)
        optimizer = torch.optim.AdamW([embedding, hidden], lr=1e-2 if interpreted else 3e-3)
        losses = []
        for _ in range(steps):
            ids = torch.randint(vocab, (tokens,), generator=generator)
            noise = torch.randint(vocab, (tokens,), generator=generator)
            keep = torch.rand(tokens, generator=generator) < 0.7
            targets = torch.where(keep, successor[ids], noise).to(DEVICE)
            x = embedding[ids] + (embedding[ids] @ hidden).tanh()
            loss = ops.linear_cross_entropy(
                x.to(DEVICE), embedding.to(DEVICE), targets, impl=impl, label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return torch.tensor(losses)

    fused, eager, other = curve(impl, 1), curve("eager", 1), curve("eager", 2)
    assert eager[-20:].mean() < 0.8 * eager[:20].mean(), "the model learns"
    assert (fused - eager).abs().max() < 0.1 * (eager - other).abs().mean()
