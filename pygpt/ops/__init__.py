"""Every operation the model calls: its contract, and its eager twin.

An op has up to three implementations behind one signature: ``eager``, plain PyTorch, the readable
twin and what tests compare against, is here; for ``triton`` and ``native`` see
`pygpt.ops.dispatch`. ``impl="auto"`` takes the fastest that the tensor's device has.

Sizes in the docstrings: B sequences, T positions, C = n_embd channels, V vocabulary, M = B·T.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt.ops import attention_native, fused_loss, gelu_native
from pygpt.ops.dispatch import DTYPES, notice_dropout, select
from pygpt.ops.heads import causal_attention, merge_heads, split_heads

# Messages are put together only when they are raised: under torch.compile a shape that goes into a
# string is a constant from then on, and every other length would be compiled anew.


def _check_devices(op: str, *tensors: Tensor) -> None:
    if any(tensor.device != tensors[0].device for tensor in tensors):
        devices = ", ".join(str(tensor.device) for tensor in tensors)
        raise ValueError(f"{op}: operands are on different devices: {devices}")


def _check_vector(op: str, name: str, vector: Tensor | None, x: Tensor) -> None:
    """A parameter (C,) that goes with x (…, C)."""
    if x.dim() == 0:
        raise ValueError(f"{op}: x must be (…, C), got a scalar")
    if vector is None:
        return
    if vector.shape != x.shape[-1:]:
        raise ValueError(
            f"{op}: {name} {tuple(vector.shape)} must be ({x.size(-1)},), the last dimension of x "
            f"{tuple(x.shape)}"
        )
    _check_devices(op, x, vector)


def _choose(op: str, impl: str, device: torch.device, dtype: torch.dtype, size: int = 0) -> str:
    """The implementation that runs: `select`'s, if it takes operands of this dtype.

    If not, "auto" means eager, and asking for it is an error.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"{op}: operands must be of a floating-point type, not {dtype}")
    chosen = select(op, impl, device, size)
    if chosen == "eager" or dtype in DTYPES[chosen]:
        return chosen
    if impl != "auto":
        have = ", ".join(str(each).removeprefix("torch.") for each in DTYPES[chosen])
        raise ValueError(f"{op}: impl={chosen!r} takes {have}, not {dtype}; take impl='eager'")
    return "eager"


# --- attention ------------------------------------------------------------------------------------


def attention(qkv: Tensor, n_head: int, *, dropout: float = 0.0, impl: str = "auto") -> Tensor:
    """Causal softmax attention of every head: softmax(q·kᵀ/√D + mask)·v.

    Vaswani et al. 2017, equation 1, with the causal mask of GPT-2.

    Args:
        qkv: (B, T, 3·C), the packed projection: queries, keys, values, heads side by side in each.
        n_head: heads; the head size is D = C / n_head.
        dropout: probability of dropping an attention weight.
        impl: see the module's docstring.

    Returns:
        (B, T, C), in qkv's dtype.

    Raises:
        ValueError: wrong rank, or a last dimension that is not 3·n_head·D.
    """
    if qkv.dim() != 3:
        raise ValueError(f"attention: qkv must be (B, T, 3·C), got {tuple(qkv.shape)}")
    if n_head < 1 or qkv.size(2) % (3 * n_head) != 0 or qkv.size(2) == 0:
        raise ValueError(
            f"attention: qkv's last dimension {qkv.size(2)} is not 3 × {n_head} heads × head size"
        )
    head_size = qkv.size(2) // (3 * n_head)
    chosen = _choose("attention", impl, qkv.device, qkv.dtype, head_size)
    if chosen != "eager" and dropout > 0.0:
        notice_dropout(chosen)
        chosen = "eager"
    if chosen == "eager":
        return causal_attention(qkv, n_head, dropout)
    if chosen == "native":
        return attention_native.attention(qkv, n_head)
    from pygpt.kernels.attention import attention as attention_triton

    y: Tensor = attention_triton(qkv, n_head)
    return y


def decode_attention(q: Tensor, k: Tensor, v: Tensor, n_head: int, *, impl: str = "auto") -> Tensor:
    """Attention of the newest position alone over all keys so far: a step of cached decoding.

    Args:
        q: (B, 1, C), the new position's queries.
        k: (B, S, C), the keys of all positions up to the new one, which is the last.
        v: (B, S, C), their values.
        n_head: heads.
        impl: see the module's docstring.

    Returns:
        (B, 1, C).

    Raises:
        ValueError: shapes that disagree.
    """
    if q.dim() != 3 or q.size(1) != 1:
        raise ValueError(f"decode_attention: q is (B, 1, C), got {tuple(q.shape)}")
    if k.shape != v.shape or k.dim() != 3 or (k.size(0), k.size(2)) != (q.size(0), q.size(2)):
        raise ValueError(
            f"decode_attention: k {tuple(k.shape)} and v {tuple(v.shape)} don't fit q "
            f"{tuple(q.shape)}"
        )
    if n_head < 1 or q.size(2) % n_head != 0:
        raise ValueError(f"decode_attention: {q.size(2)} channels, {n_head} heads")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"decode_attention: q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; they must agree"
        )
    _check_devices("decode_attention", q, k, v)
    if _choose("attention", impl, q.device, q.dtype, q.size(2) // n_head) == "triton":
        from pygpt.kernels.decode_attention import decode_attention as decode_attention_triton

        y: Tensor = decode_attention_triton(q, k, v, n_head)
        return y
    q, k, v = (split_heads(part, n_head) for part in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


# --- layer norm -----------------------------------------------------------------------------------


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *, impl: str = "auto"
) -> Tensor:
    """Layer normalisation over the last dimension: (x - mean)·rstd·weight + bias.

    Ba, Kiros and Hinton 2016, equation 4. Statistics are taken in fp32 whatever x's dtype.

    Args:
        x: (…, C).
        weight: (C,).
        bias: (C,) or None.
        eps: added to the variance.
        impl: see the module's docstring.

    Returns:
        (…, C), in x's dtype.

    Raises:
        ValueError: weight or bias that don't fit x.
    """
    _check_vector("layer_norm", "weight", weight, x)
    _check_vector("layer_norm", "bias", bias, x)
    if _choose("layer_norm", impl, x.device, x.dtype, x.size(-1)) == "triton":
        from pygpt.kernels.layer_norm import layer_norm as layer_norm_triton

        normed: Tensor = layer_norm_triton(x, weight, bias, eps)
        return normed
    return _layer_norm_eager(x, weight, bias, eps)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The residual add and the layer norm behind it, in one pass over memory.

    Args:
        x: (…, C), the output of the sublayer before.
        residual: (…, C), the residual stream; it may have a wider dtype than x (fp32 under bf16).
        weight: (C,).
        bias: (C,) or None.
        eps: added to the variance.
        impl: see the module's docstring.

    Returns:
        (normed, summed), both (…, C): summed = residual + x in residual's dtype, and
        normed = layer_norm(summed) in x's dtype, which is what the next GEMM reads.

    Raises:
        ValueError: shapes that disagree.
    """
    if x.shape != residual.shape:
        raise ValueError(
            f"add_layer_norm: x {tuple(x.shape)} and residual {tuple(residual.shape)} differ"
        )
    _check_devices("add_layer_norm", x, residual)
    _check_vector("add_layer_norm", "weight", weight, x)
    _check_vector("add_layer_norm", "bias", bias, x)
    if _choose("layer_norm", impl, x.device, x.dtype, x.size(-1)) == "triton":
        from pygpt.kernels.layer_norm import add_layer_norm as add_layer_norm_triton

        both: tuple[Tensor, Tensor] = add_layer_norm_triton(x, residual, weight, bias, eps)
        return both
    summed = residual + x
    return _layer_norm_eager(summed, weight, bias, eps).to(x.dtype), summed


def _layer_norm_eager(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    normed = F.layer_norm(
        x.to(dtype), weight.shape, weight.to(dtype), None if bias is None else bias.to(dtype), eps
    )
    return normed.to(x.dtype)


# --- gelu -----------------------------------------------------------------------------------------


def gelu(
    x: Tensor, bias: Tensor | None = None, *, approximate: str = "tanh", impl: str = "auto"
) -> Tensor:
    """GELU of x + bias: z·Φ(z), or its tanh form, which is GPT-2's.

    Hendrycks and Gimpel 2016, section 2.

    Args:
        x: (…, C).
        bias: (C,) or None, the bias of the linear layer before.
        approximate: "tanh" or "none" (by the error function).
        impl: see the module's docstring.

    Returns:
        (…, C), in x's dtype.

    Raises:
        ValueError: a bias that does not fit, or another `approximate`.
    """
    if approximate not in ("tanh", "none"):
        raise ValueError(f"gelu: approximate={approximate!r}, not 'tanh'/'none'")
    _check_vector("gelu", "bias", bias, x)
    chosen = _choose("gelu", impl, x.device, x.dtype)
    if chosen == "native" and approximate != "tanh":
        if impl != "auto":
            raise ValueError("gelu: impl='native' takes approximate='tanh'; take impl='eager'")
        chosen = "eager"
    if chosen == "native":
        return gelu_native.gelu(x, bias)
    if chosen == "triton":
        from pygpt.kernels.gelu import gelu as gelu_triton

        y: Tensor = gelu_triton(x, bias, approximate=approximate)
        return y
    return F.gelu(x if bias is None else x + bias.to(x.dtype), approximate=approximate)


# --- linear + cross-entropy -----------------------------------------------------------------------


@overload
def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, *, return_per_token: Literal[True], **options: Any
) -> tuple[Tensor, Tensor, Tensor]: ...


@overload
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    return_per_token: Literal[False] = ...,
    **options: Any,
) -> Tensor: ...


def linear_cross_entropy(  # type: ignore[misc]  # its overloads say **options for most of this
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    return_per_token: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """The head and its loss: cross-entropy of softmax(x·weightᵀ) against the targets, in nats.

    The triton and native implementations never hold the (M, V) logits and compute the gradients
    with the loss: see `pygpt.ops.fused_loss`. They take fp32 and bf16, triton fp16 too, and
    "auto" is eager for other dtypes. A second backward through one loss is an error there.

    Args:
        x: (M, C), the final hidden states.
        weight: (V, C), the head.
        targets: (M,), int64 ids in [0, V), or `ignore_index` where there is no target.
        ignore_index: the id of positions that don't count.
        reduction: "mean" over the targets that count, "sum", or "none": (M,), 0 where ignored.
        z_loss: weight of the added lse² (Chowdhery et al. 2022, section 5).
        label_smoothing: share of the target spread over all ids, as in `F.cross_entropy`.
        return_per_token: also return each token's loss and the log-sum-exp of its logits.
        impl: see the module's docstring.

    Returns:
        The loss in fp32 (fp64 of fp64): a scalar, or (M,) for "none". "mean" of no target at all is
        NaN with zero gradients, as in PyTorch. With `return_per_token`, (loss, losses, lse): the
        other two are (M,), in the loss's dtype, and carry no gradient.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, or another reduction.
        IndexError: a target outside [0, V), on a CPU. On a GPU looking costs a wait, so it is done
            under `torch.autograd.detect_anomaly` alone; otherwise eager trips a device assertion
            and triton makes that token's loss and gradient NaN.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.size(1) != weight.size(1):
        raise ValueError(
            f"linear_cross_entropy: x {tuple(x.shape)} and weight {tuple(weight.shape)} are not "
            "(M, C) and (V, C)"
        )
    if targets.shape != x.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"linear_cross_entropy: targets {tuple(targets.shape)}, {targets.dtype}, must be "
            f"({x.size(0)},), torch.int64"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"linear_cross_entropy: reduction={reduction!r} is none of 'mean', 'sum', 'none'"
        )
    _check_devices("linear_cross_entropy", x, weight, targets)
    gemm_dtype = _gemm_dtype(x, weight)
    chosen = _choose("linear_cross_entropy", impl, x.device, gemm_dtype)
    if chosen == "eager":
        loss, losses, lse = _linear_cross_entropy_eager(
            x, weight, targets, ignore_index, reduction, z_loss, label_smoothing, return_per_token
        )
    else:
        loss, losses, lse = fused_loss.linear_cross_entropy(
            x,
            weight,
            targets,
            gemm_dtype=gemm_dtype,
            ignore_index=ignore_index,
            reduction=reduction,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            impl=chosen,
        )
    return (loss, losses, lse) if return_per_token else loss


def _gemm_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype `F.linear` computes in: autocast's where it is on, else that of both."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"linear_cross_entropy: x is {x.dtype} and weight {weight.dtype}; cast one or use "
            "autocast"
        )
    return x.dtype


def _linear_cross_entropy_eager(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    label_smoothing: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and without gradient each token's loss and, `with_lse`, log-sum-exp."""
    logits = F.linear(x, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(
        logits,
        targets,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    # Another pass over all logits: only where something asks for it.
    lse = logits.logsumexp(dim=1) if z_loss or with_lse else logits.new_empty(0)
    ignored = targets == ignore_index
    if z_loss:
        losses = losses + z_loss * lse.square().masked_fill(ignored, 0.0)
    loss = losses if reduction == "none" else losses.sum()
    if reduction == "mean":
        loss = loss / (~ignored).sum()
    return loss, losses.detach(), lse.detach()
