"""How fast a GPU could train at most: arithmetic from operation and byte counts.

Each part of a training step takes at least its operations over the GPU's bf16 rate, or its bytes
over the GPU's bandwidth; parts follow one another, so their bounds add up. Counted is what pygpt's
kernels do under bf16 autocast, with tensors larger than the GPU's caches.

Sizes in comments: M tokens a micro-batch, T positions, C = n_embd, V = vocab_size, L = n_layer,
N parameters. Operations and bytes are per token.
"""

from __future__ import annotations

from pygpt.config import GPTConfig
from pygpt.ops.chunked_cross_entropy import chunk_tokens
from pygpt.planning.cards import Card

BF16 = 2
FP32 = 4

# What no card's data sheet says: assumptions, for --offload-optimizer.
PCIE_BANDWIDTH = 20e9
"""Bytes per second to and from the GPU: PCIe 4.0 x16, which is 32 GB/s on paper."""
HOST_BANDWIDTH = 40e9
"""Bytes per second of the machine's memory: two channels of DDR5."""


def step_bound(
    config: GPTConfig,
    card: Card,
    *,
    micro_batch: int,
    batch_tokens: int,
    checkpointing: bool = False,
    offload: bool = False,
) -> dict[str, float]:
    """Seconds per token that each part of a training step takes at the least, by part.

    Args:
        config: the model.
        card: whose rates.
        micro_batch: sequences in memory at once.
        batch_tokens: tokens a step, which share the optimiser's work.
        checkpointing: whether each block's forward is computed twice.
        offload: whether AdamW runs on the host; see `pygpt.training.offload`.
    """
    again = 1 if checkpointing else 0
    tokens = micro_batch * config.block_size
    c, v, layers = config.n_embd, config.vocab_size, config.n_layer
    block_weights = 12 * c * c * layers

    # Forward 2 operations a weight, backward 4.
    gemms = (6 + 2 * again) * block_weights
    head = 6 * v * c

    # A matrix product over half of T × T: T·C a token and layer. Forward q·kᵀ and p·v; backward
    # five, of which q·kᵀ and dy·vᵀ are computed for dk and dv, and once more for dq.
    attention = (2 + 7 + 2 * again) * config.block_size * c * layers
    # Forward reads q, k, v and writes y; delta reads y and dy; the kernel of dk and dv reads q, k,
    # v, dy and writes both; that of dq reads as much and writes dq.
    attention_bytes = BF16 * (4 + 2 + 6 + 5 + 4 * again) * c * layers

    # The row kernel reads the logits and writes their gradient. The weight's gradient, in fp32, is
    # read and written once a chunk.
    chunk = chunk_tokens(tokens, v, BF16, "cuda", card.memory)
    loss_bytes = 2 * BF16 * v + 2 * FP32 * v * c / chunk

    # Forward: the sublayer's output and the stream are read, the sum and its norm written.
    # Backward: both gradients and the sum are read, the gradients of both inputs written.
    norm_forward, norm_backward = (2 * BF16 + 2 * FP32) * c, (2 * BF16 + 3 * FP32) * c
    norm_bytes = (2 * layers + 1) * (
        norm_forward + norm_backward
    ) + 2 * layers * again * norm_forward

    # Forward reads and writes; backward reads the input and a gradient and writes one.
    gelu_bytes = BF16 * (2 + 3 + 2 * again) * 4 * c * layers

    # Once a micro-batch. A block's weight: read, written as bf16; its gradient read as bf16,
    # written as fp32, added to the sum; with the optimiser on the host it is in bf16 already, and
    # its gradient is added as it comes. The embedding, which is the head: read and cast; the head's
    # gradient scaled; the embedding's written; the one added to the other, and both to the sum.
    block_handling = BF16 + 2 * FP32 if offload else (FP32 + BF16) * (2 + again) + 3 * FP32
    embedding_handling = (FP32 + BF16) + (2 + 1 + 3 + 3) * FP32
    weight_bytes = (block_weights * block_handling + v * c * embedding_handling) / tokens

    # Once a step: the norm reads the gradients, clipping reads and writes them; AdamW reads weight,
    # gradient and both moments and writes all but the gradient.
    n = config.n_params()
    if offload:
        optimizer = FP32 * 4 * n / card.bandwidth + _host_seconds(n, block_weights)
    else:
        optimizer = FP32 * (1 + 2 + 7) * n / card.bandwidth

    return {
        "block GEMMs": gemms / card.flops,
        "head GEMMs": head / card.flops,
        "attention": max(attention / card.flops, attention_bytes / card.bandwidth),
        "loss": loss_bytes / card.bandwidth,
        "layer norms": norm_bytes / card.bandwidth,
        "GELU": gelu_bytes / card.bandwidth,
        "weight handling": weight_bytes / card.bandwidth,
        "optimizer": optimizer / batch_tokens,
    }


def _host_seconds(n: int, in_bf16: int) -> float:
    """A step of AdamW on the host over `n` parameters, of which `in_bf16` are bf16 on the GPU.

    One part of the model is updated while another is on its way: the slower of the two counts.
    """
    gradients, weights = FP32 * n, FP32 * n - (FP32 - BF16) * in_bf16
    copying = (gradients + weights) / PCIE_BANDWIDTH
    # AdamW as above; then the new weight is read and written to where it leaves from.
    updating = (FP32 * 7 * n + FP32 * n + weights) / HOST_BANDWIDTH
    return max(copying, updating)


def mfu_bound(config: GPTConfig, card: Card, bound: dict[str, float], *, causal: bool) -> float:
    """Model FLOPs utilisation if every part ran at its bound; see `GPTConfig.flops_per_token`."""
    return config.flops_per_token(causal=causal) / sum(bound.values()) / card.flops
