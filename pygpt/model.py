"""GPT-2: token and position embeddings, pre-norm blocks, a tied head (Radford et al. 2019).

Sizes in comments: B sequences, T positions, C = n_embd, V = vocab_size. Every operation with more
than one implementation is called through `pygpt.ops`.
"""

from __future__ import annotations

import copy
import math
import os
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pygpt import ops
from pygpt.config import GPTConfig
from pygpt.ops.dispatch import Implementations
from pygpt.utils.errors import InputError

INIT_STD = 0.02
"""Standard deviation of GPT-2's initial weights."""


class LayerNorm(nn.Module):
    """Parameters of a layer norm, with the bias optional."""

    def __init__(self, config: GPTConfig, impl: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None
        self.impl = impl

    def forward(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add a sublayer's output to the residual stream and normalise.

        Args:
            x: (B, T, C), the residual stream.
            delta: (B, T, C), the output of the sublayer before, not yet added; None at the start.

        Returns:
            (normed, x): the normed sum and the sum, which is the stream from here on.
        """
        if delta is None:
            return ops.layer_norm(x, self.weight, self.bias, impl=self.impl), x
        return ops.add_layer_norm(delta, x, self.weight, self.bias, impl=self.impl)


class KVCache:
    """Keys and values of the positions read so far, for rows of unequal length.

    Attributes:
        kv: (n_layer, 2, B, block_size, C).
        lengths: (B,), int64: the positions of each row that count.
        extent: positions that decoding looks at, at least the longest row's with its new one. A
            caller that knows the lengths sets it: asking a GPU for them would wait for it.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        shape = (config.n_layer, 2, batch_size, config.block_size, config.n_embd)
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.extent = config.block_size

    def rows(self, start: int, stop: int) -> KVCache:
        """Some of the rows, sharing their memory."""
        part = copy.copy(self)
        part.kv, part.lengths = self.kv[:, :, start:stop], self.lengths[start:stop]
        return part

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, T, C) keys and values behind those of `layer`; return all, (B, extent, C)."""
        keys, values = self.kv[layer]
        if k.size(1) > 1:  # prompts, into empty rows
            keys[:, : k.size(1)], values[:, : k.size(1)] = k, v
        else:
            rows = torch.arange(k.size(0), device=k.device)
            keys[rows, self.lengths] = k[:, 0].to(keys.dtype)
            values[rows, self.lengths] = v[:, 0].to(values.dtype)
        return keys[:, : self.extent], values[:, : self.extent]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and those before it."""

    def __init__(self, config: GPTConfig, layer: int, impl: str) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.layer = layer
        self.impl = impl

    def forward(self, x: Tensor, cache: KVCache | None) -> Tensor:  # (B, T, C) → (B, T, C)
        qkv = self.c_attn(x)
        if cache is None:
            y = self._attend(qkv)
        else:
            q, k, v = qkv.chunk(3, dim=2)
            keys, values = cache.append(self.layer, k, v)
            if x.size(1) > 1:
                y = self._attend(qkv)
            else:
                seen = cache.lengths + 1
                y = ops.decode_attention(q, keys, values, self.n_head, seen, impl=self.impl)
        return F.dropout(self.c_proj(y), self.dropout, self.training)

    def _attend(self, qkv: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return ops.attention(qkv, self.n_head, dropout=dropout, impl=self.impl)


class MLP(nn.Module):
    """Two linear layers around a GELU, four times as wide inside."""

    def __init__(self, config: GPTConfig, impl: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = config.dropout
        self.impl = impl

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) → (B, T, C)
        # c_fc's bias goes to the GELU, whose backward yields its gradient in the same pass.
        h = ops.gelu(F.linear(x, self.c_fc.weight), self.c_fc.bias, impl=self.impl)
        return F.dropout(self.c_proj(h), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int, impl: Implementations) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config, impl.layer_norm)
        self.attn = CausalSelfAttention(config, layer, impl.attention)
        self.ln_2 = LayerNorm(config, impl.layer_norm)
        self.mlp = MLP(config, impl.gelu)

    def forward(
        self, x: Tensor, delta: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor]:
        """One block. `delta` is what the block before has to add; see `LayerNorm.forward`."""
        normed, x = self.ln_1(x, delta)
        normed, x = self.ln_2(x, self.attn(normed, cache))
        return x, self.mlp(normed)


class GPT(nn.Module):
    """The language model.

    Args:
        config: its shape.
        impl: implementations of the ops, as `Implementations.parse` reads them.
        checkpoint_activations: in training, keep of each block only its inputs, and compute the
            block again in the backward (Chen et al. 2016, section 4).

    Weights start as GPT-2's: normal with standard deviation 0.02, and 0.02/√(2·n_layer) for the
    projections that write to the residual stream.
    """

    def __init__(
        self,
        config: GPTConfig,
        impl: str | Implementations = "auto",
        *,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(impl, str):
            impl = Implementations.parse(impl)
        self.config = config
        self.impl = impl
        self.checkpoint_activations = checkpoint_activations
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the head
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer, impl) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config, impl.layer_norm)
        self.apply(self._init_weights)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * config.n_layer))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        impl: str = "auto",
        revision: str | None = None,
    ) -> GPT:
        """The model of a run, a directory, or the Hub ("gpt2"), in eval mode; see `pygpt.load`.

        Raises:
            InputError: there is no such model, it is damaged or a variant that pygpt does not run.
        """
        from pygpt.runs.models import load

        model, _ = load(name, device=device, impl=impl, revision=revision)
        return model

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def hidden(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        """The final hidden states (B, T, C) of the ids (B, T), before the head.

        With a cache, `idx` continues what the cache's rows have seen: prompts of T > 1 ids into
        empty rows, or the next id of each row. The caller sees to it that they fit.

        Raises:
            InputError: more positions than block_size, or ids that are not (B, T).
        """
        if idx.dim() != 2:
            raise InputError(
                f"ids must be (B, T), got {tuple(idx.shape)}; idx[None] is one sequence"
            )
        n_positions = idx.size(1)
        if n_positions > self.config.block_size:
            raise InputError(
                f"{n_positions} positions, and the model has block_size={self.config.block_size}"
            )
        if cache is None or n_positions > 1:
            x = ops.embedding(idx, self.wte.weight) + self.wpe.weight[:n_positions]
        else:
            x = ops.embedding(idx, self.wte.weight) + self.wpe(cache.lengths)[:, None]
        x = F.dropout(x, self.config.dropout, self.training)
        delta = None
        for block in self.h:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x, delta = checkpoint(block, x, delta, cache, use_reentrant=False)
            else:
                x, delta = block(x, delta, cache)
        normed, _ = self.ln_f(x, delta)
        if cache is not None:
            cache.lengths += n_positions
        return cast(Tensor, normed)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits and loss, with nanoGPT's contract.

        Training and evaluation call `loss`, which holds no (B, T, V) logits.

        Args:
            idx: (B, T) ids, int64.
            targets: (B, T) ids that follow each position, -1 where there is none; or None.

        Returns:
            With targets: logits (B, T, V) and the mean loss in nats. Without: the logits
            (B, 1, V) of the last position, and None.

        Raises:
            InputError: more positions than block_size.
        """
        x = self.hidden(idx)
        if targets is None:
            return self.head(x[:, -1:]), None
        return self.head(x), self._head_loss(x, targets, "mean")

    def loss(self, idx: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The cross-entropy in nats: a scalar, or (B, T) for reduction="none".

        Args:
            idx: (B, T) ids, int64.
            targets: (B, T) ids, -1 where there is none.
            reduction: "mean" or "sum" over the targets, or "none".
        """
        return self._head_loss(self.hidden(idx), targets, reduction)

    def head(self, x: Tensor) -> Tensor:
        """Logits (B, T, V) of hidden states (B, T, C)."""
        return F.linear(x, self.wte.weight)

    def _head_loss(self, x: Tensor, targets: Tensor, reduction: str) -> Tensor:
        loss = ops.linear_cross_entropy(
            x.flatten(0, 1),
            self.wte.weight,
            targets.flatten(),
            ignore_index=-1,
            reduction=reduction,
            impl=self.impl.linear_cross_entropy,
        )
        return loss.view_as(targets) if reduction == "none" else loss
