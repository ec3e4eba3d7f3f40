"""How much memory a training step takes, and the largest micro-batch that fits.

`estimate` counts the tensors that are alive when a step needs most, one by one, from the model's
shape. It asks no device, so it answers for a card that is not here, before anything is built.

Sizes in comments: B sequences, T positions, M = B·T tokens, C = n_embd, V = vocab_size, H = n_head,
L = n_layer; s is the bytes of a GEMM's element: 2 under bf16 autocast, 4 in fp32.
"""

from __future__ import annotations

import dataclasses

import torch
from rich.table import Table

from pygpt.config import GPTConfig, TrainConfig
from pygpt.errors import InputError
from pygpt.linear_cross_entropy import LOGITS_BYTES
from pygpt.ops import Implementations

FP32 = 4
"""Bytes of an fp32 element: weights, their gradients, AdamW's moments and the residual stream."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes of a training step, by what they hold.

    The step accumulates over at least two micro-batches: gradients of the one before are there when
    the activations of the next are.
    """

    parameters: int
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    weight_casts: int
    """bf16 copies of the weights: made once a micro-batch by autocast, kept for the backward."""
    activations: int
    """What the forward keeps for the backward."""
    loss: int
    """On top of the activations, while the last norm, the head and the loss are computed."""
    backward: int
    """On top of the activations, while the first block is differentiated."""

    @property
    def state(self) -> int:
        """What is there whatever the micro-batch."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The peak: the loss and the backward come one after the other."""
        return self.state + self.weight_casts + self.activations + max(self.loss, self.backward)

    def table(self, title: str) -> Table:
        """All terms in MiB, as a table to print."""
        table = Table(title=title, title_justify="left")
        table.add_column("memory of a step")
        table.add_column("MiB", justify="right")
        for field in dataclasses.fields(self):
            name = field.name.replace("_", " ")
            largest = self.backward if self.loss < self.backward else self.loss
            smaller = field.name in ("loss", "backward") and getattr(self, field.name) < largest
            size = f"{getattr(self, field.name) / 2**20:,.0f}"
            table.add_row(name, f"({size})" if smaller else size)
        table.add_section()
        table.add_row("peak", f"{self.total / 2**20:,.0f}")
        return table


def estimate(
    config: GPTConfig,
    micro_batch: int,
    *,
    device: str,
    dtype: torch.dtype,
    impl: Implementations,
    checkpointing: bool = False,
    compiled: bool = False,
) -> Estimate:
    """The memory of a training step at its peak.

    Args:
        config: the model.
        micro_batch: sequences, each of block_size tokens.
        device: type of the device, "cuda" or "cpu".
        dtype: of the GEMMs' inputs.
        impl: implementations of the ops, resolved: none is "auto".
        checkpointing: whether blocks are computed again in the backward.
        compiled: whether the model runs through torch.compile.
    """
    tokens, c, s = micro_batch * config.block_size, config.n_embd, dtype.itemsize
    state = FP32 * config.n_params()
    casts = _block_casts(config, s)
    block = _block_activations(config, tokens, s, device)
    # The residual stream in fp32 and the sublayer's output that is not yet added to it.
    block_inputs = (FP32 + s) * tokens * c
    ids = 2 * 8 * tokens  # inputs and targets, int64
    loss = _norm_activations(tokens, c, s) + _loss(config, tokens, s, device, impl, compiled)
    # The head's part of the embedding's gradient waits for the other part, which comes last.
    backward = FP32 * config.vocab_size * c + _block_backward(tokens, c, s)
    if checkpointing:
        loss += (config.n_layer - 1) * casts  # autocast keeps them until the forward is over
        backward += block
    return Estimate(
        parameters=state,
        gradients=state,
        optimizer=2 * state,
        weight_casts=casts * (1 if checkpointing else config.n_layer),
        activations=ids + config.n_layer * (block_inputs if checkpointing else block),
        loss=loss,
        backward=backward,
    )


def _block_activations(config: GPTConfig, tokens: int, s: int, device: str) -> int:
    """What one block keeps: 36·M·C bytes under bf16 and 64·M·C in fp32, and statistics."""
    width = tokens * config.n_embd
    kept = 2 * _norm_activations(tokens, config.n_embd, s)  # the inputs of c_attn and of c_fc
    kept += 3 * s * width  # q, k, v
    kept += s * width  # attention's output, which is the input of c_proj
    kept += FP32 * tokens * config.n_head  # attention's log-sum-exp
    kept += 4 * s * width  # the input of the GELU, with the bias added
    kept += 4 * s * width  # its output, which is the input of the MLP's c_proj
    if config.dropout:
        # A mask behind each of the two c_proj: bytes on a GPU, numbers to multiply with on a CPU.
        kept += 2 * width * (1 if device == "cuda" else s)
        if device == "cpu":
            # No fused attention with dropout there: the weights, the mask and their product in
            # fp32, and under autocast the cast of the last.
            weights = tokens * config.n_head * config.block_size
            kept += (3 * FP32 + (s if s < FP32 else 0)) * weights
    return kept


def _norm_activations(tokens: int, c: int, s: int) -> int:
    # The sum that is normalised, in fp32; its mean and rstd; the result, as the next GEMM reads it.
    return (FP32 + s) * tokens * c + 2 * FP32 * tokens


def _block_casts(config: GPTConfig, s: int) -> int:
    return 0 if s == FP32 else s * 12 * config.n_embd**2


def _loss(
    config: GPTConfig, tokens: int, s: int, device: str, impl: Implementations, compiled: bool
) -> int:
    """Head and loss, forward and backward, without the head's input."""
    logits, weight = tokens * config.vocab_size, config.vocab_size * config.n_embd
    cast = 0 if s == FP32 else s * weight
    if impl.linear_cross_entropy != "eager":
        buffers = min(s * logits, LOGITS_BYTES[device])  # a chunk at a time
        buffers += FP32 * weight + s * tokens * config.n_embd  # gradients of the weight and of x
        buffers += 2 * FP32 * tokens  # each token's loss and log-sum-exp
        # On a CPU a chunk's part of the weight's gradient is made in bf16, then added.
        return buffers + cast * (2 if device == "cpu" else 1)
    if compiled:
        # Inductor keeps the logits in the GEMM's dtype and writes their gradient beside them.
        return 2 * s * logits + cast
    # The log-softmax that the forward kept, the gradient towards it and the one towards the logits.
    return 3 * FP32 * logits + cast


def _block_backward(tokens: int, c: int, s: int) -> int:
    """Gradients alive at the GELU, the widest place, less what its layer has let go already."""
    # Towards the stream and the sublayer; towards the GELU's output and its input, of which the
    # output itself, counted with the activations, is gone.
    return (FP32 + s) * tokens * c + (4 + 4 - 4) * s * tokens * c
