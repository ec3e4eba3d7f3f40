"""The bits of every kernel's results on fixed inputs, for a comparison of two compilers or GPUs.

    python bench/kernel_bits.py                                  # a line for each result: a hash
    TRITON_PTXAS_PATH=… python bench/kernel_bits.py | diff …     # with another ptxas

Inputs are drawn on the CPU, so that they are the same everywhere. Every kernel runs twice: the exit
status is 1 if its results differ. ``--small`` is for compute-sanitizer and Triton's interpreter.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator

import torch
import tyro
from torch import Tensor

from pygpt import ops
from pygpt.kernels.attention import attention
from pygpt.planning.hardware import pick_device

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

Op = Callable[..., Tensor]


def cases(small: bool) -> Iterator[tuple[str, Op, list[Tensor]]]:
    """Name, operator and inputs on the CPU, in fp32."""
    B, T, heads, D, V = (1, 40, 2, 32, 300) if small else (4, 1000, 6, 64, 50_304)
    C = heads * D
    qkv, x, hidden = torch.randn(B, T, 3 * C), torch.randn(B, T, C), torch.randn(B, T, 4 * C)
    seed = torch.tensor([1234567])
    yield "attention", lambda qkv: ops.attention(qkv, heads, impl="triton"), [qkv]
    yield (
        "attention with dropout",
        lambda qkv: attention(qkv, heads, 0.2, seed.to(qkv.device)),
        [qkv],
    )
    yield (
        "add_layer_norm",
        lambda *inputs: ops.add_layer_norm(*inputs, impl="triton")[0],
        [x, torch.randn(B, T, C), torch.randn(C), torch.randn(C)],
    )
    yield (
        "gelu",
        lambda *inputs: ops.gelu(*inputs, impl="triton"),
        [hidden, torch.randn(4 * C)],
    )
    targets = torch.randint(V, (B * T,))
    yield (
        "linear_cross_entropy",
        lambda x, weight: ops.linear_cross_entropy(x, weight, targets.to(x.device), impl="triton"),
        [x.flatten(0, 1), torch.randn(V, C) / C**0.5],
    )
    query, cache = torch.randn(B, 1, C), torch.randn(2, B, T, C)
    yield (
        "decode_attention",
        lambda q, kv: ops.decode_attention(q, kv[0], kv[1], heads, impl="triton"),
        [query, cache],
    )


def results(
    op: Op, inputs: list[Tensor], device: torch.device, dtype: torch.dtype, differentiable: bool
) -> list[Tensor]:
    """The output and, where the operator has a backward, the gradient of every input."""
    leaves = [x.to(device, dtype).requires_grad_(differentiable) for x in inputs]
    y = op(*leaves)
    if not differentiable:
        return [y]
    return [y, *torch.autograd.grad(y.float().square().sum(), leaves)]


def digest(tensor: Tensor) -> str:
    """16 digits of a hash of a tensor's bits."""
    bits = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(bits).hexdigest()[:16]


def main(small: bool = False, device: str = "auto") -> int:
    """Print a hash of every result; 1 where the same call twice gives other bits.

    Args:
        small: with small tensors.
        device: where to run; on a CPU with TRITON_INTERPRET=1.
    """
    where = pick_device(device)
    differ = False
    for dtype in DTYPES:
        if where.type == "cpu" and dtype == torch.bfloat16:
            continue  # Triton's interpreter computes it wrongly
        torch.manual_seed(1)
        for name, op, inputs in cases(small):
            backward = name != "decode_attention"
            first, again = (results(op, inputs, where, dtype, backward) for _ in range(2))
            for i, (one, other) in enumerate(zip(first, again, strict=True)):
                what = "output" if i == 0 else f"gradient {i}"
                short = str(dtype).removeprefix("torch.")
                print(f"{name}, {what}, {short}: {digest(one)}")
                if not torch.equal(one, other):
                    differ = True
                    print(f"{name}, {what}, {short}: the same call twice differs", file=sys.stderr)
    return int(differ)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
