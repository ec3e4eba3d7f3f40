"""The shape of a model: `GPTConfig`."""

from __future__ import annotations

import dataclasses

from pygpt.utils.errors import InputError

VOCAB_MULTIPLE = 64
"""Rows of the embedding table are padded to a multiple of this: GEMMs run faster on round sizes."""


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2-class model, with nanoGPT's field names."""

    block_size: int = 1024
    """Positions: the longest context, in tokens."""
    vocab_size: int = 50304
    """Rows of the embedding table; ids the tokenizer does not know are padding."""
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    """Biases in linear layers and layer norms, as GPT-2 has them."""

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            below = self.n_embd - self.n_embd % self.n_head
            nearest = [str(n) for n in (below, below + self.n_head) if n]
            raise InputError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}; "
                f"the nearest widths that are: {', '.join(nearest)}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")

    def n_params(self, *, positions: bool = True) -> int:
        """Parameters, the tied head counted once; without position embeddings if asked."""
        norm = self.n_embd * (1 + self.bias)
        total = self.vocab_size * self.n_embd + self.n_layer * self.n_params_of_block() + norm
        return total + (self.block_size * self.n_embd if positions else 0)

    def n_params_of_block(self) -> int:
        """Parameters of one block."""
        c = self.n_embd
        return 12 * c * c + 2 * c + (11 * c if self.bias else 0)

    def flops_per_token(self, *, causal: bool = False) -> int:
        """Operations of a training step per token, forward and backward.

        6·N + 12·L·C·T (Chowdhery et al. 2022, appendix B), which counts attention as if it were
        not causal: nanoGPT's convention, so that figures can be compared. With `causal`, attention
        counts half, which is what is computed.
        """
        attention = (6 if causal else 12) * self.n_layer * self.n_embd * self.block_size
        return 6 * self.n_params(positions=False) + attention


def padded_vocab_size(n_vocab: int) -> int:
    """The rows of an embedding table for a tokenizer of `n_vocab` ids."""
    return -(-n_vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
