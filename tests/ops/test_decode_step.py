"""The native step of decoding against the model in fp64 with the weights that it reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pygpt import GPT, GPTConfig
from pygpt.inference.decoders import pack
from pygpt.ops import native
from pygpt.ops.decode_step import TYPES, DecodeStep, PackedMatrix

levels = pytest.mark.parametrize("level", native.levels())
types = pytest.mark.parametrize("dtype", TYPES)

# Sizes that are no multiples of a vector, and heads whose size is none of a block of keys.
ODD = GPTConfig(block_size=37, vocab_size=323, n_layer=2, n_head=3, n_embd=51, bias=True)
EVEN = GPTConfig(block_size=40, vocab_size=320, n_layer=2, n_head=2, n_embd=128, bias=False)
configs = pytest.mark.parametrize("config", [ODD, EVEN], ids=["odd", "even"])


def draw(config: GPTConfig, seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(config, impl="eager").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def with_packed_weights(model: GPT, dtype: str) -> GPT:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for module in [*model.modules()]:
            if isinstance(module, nn.Linear) or module is model.wte:
                module.weight.copy_(PackedMatrix.pack(module.weight, dtype).unpack())
    return model


def logits_of_steps(step: DecodeStep, texts: list[Tensor]) -> list[Tensor]:
    """All logits of texts that are read in one batch, each row as long as it has ids."""
    found: list[list[Tensor]] = [[] for _ in texts]
    for position in range(max(map(len, texts))):
        rows = [row for row, text in enumerate(texts) if position < len(text)]
        ids = [int(texts[row][position]) for row in rows]
        for row, logits in zip(rows, step.run(ids, rows, [position] * len(rows)), strict=True):
            found[row].append(logits)
    return [torch.stack(each) for each in found]


def draw_texts(config: GPTConfig, lengths: list[int]) -> list[Tensor]:
    return [torch.randint(config.vocab_size, (length,)) for length in lengths]


@torch.no_grad()
def all_logits(model: GPT, text: Tensor) -> Tensor:
    return model.head(model.hidden(text[None]))[0]


@levels
@types
@configs
def test_logits(config: GPTConfig, dtype: str, level: str, seed: int) -> None:
    """At most twice as far from fp64 as PyTorch's fp32 with the same weights, in the root mean."""
    model = draw(config, seed)
    step = DecodeStep(pack(model, dtype), 6, bfloat16_cache=False, level=level)
    texts = draw_texts(config, [config.block_size, 3, 17, 16, 1])
    same = with_packed_weights(model, dtype)
    exact = copy.deepcopy(same).double()
    for text, got in zip(texts, logits_of_steps(step, texts), strict=True):
        truth = all_logits(exact, text)
        allowed = 2 * (all_logits(same, text) - truth).square().mean().sqrt() + 1e-6 * truth.std()
        assert (got - truth).square().mean().sqrt() <= allowed


@levels
def test_cache_in_bfloat16(level: str, seed: int) -> None:
    """Nearer to a model that rounds keys and values to bf16 than half of what that changes."""
    model = draw(EVEN, seed)
    step = DecodeStep(pack(model, "float32"), 1, bfloat16_cache=True, level=level)
    (text,) = draw_texts(EVEN, [EVEN.block_size])
    (got,) = logits_of_steps(step, [text])
    exact = model.double()
    unrounded = all_logits(exact, text)

    def round_keys_and_values(_: nn.Module, __: Any, qkv: Tensor) -> Tensor:
        q, kv = qkv.tensor_split([EVEN.n_embd], dim=-1)
        return torch.cat([q, kv.bfloat16().double()], dim=-1)

    for block in exact.h:
        block.attn.c_attn.register_forward_hook(round_keys_and_values)
    truth = all_logits(exact, text)
    change = (unrounded - truth).square().mean().sqrt()
    assert (got - truth).square().mean().sqrt() < change / 2


@levels
@types
@configs
@pytest.mark.parametrize("bfloat16_cache", [False, True])
def test_neither_batch_nor_threads_change_a_bit(
    config: GPTConfig, bfloat16_cache: bool, dtype: str, level: str, seed: int
) -> None:
    weights = pack(draw(config, seed), dtype)
    texts = draw_texts(config, [9, 20, 5, 20, 1, 13, 20, 2, 17])
    threads = torch.get_num_threads()

    def run(texts: list[Tensor]) -> list[Tensor]:
        step = DecodeStep(weights, len(texts), bfloat16_cache=bfloat16_cache, level=level)
        return logits_of_steps(step, texts)

    try:
        torch.set_num_threads(1)
        together = run(texts)
        alone = [run([text])[0] for text in texts]
        torch.set_num_threads(2)
        with_two_threads = run(texts)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, together, alone))
    assert all(map(torch.equal, together, with_two_threads))


@configs
def test_stored_keys_and_values_are_those_of_steps(config: GPTConfig, seed: int) -> None:
    weights = pack(draw(config, seed), "float32")
    stored = DecodeStep(weights, 2, bfloat16_cache=False)
    shape = (config.n_layer, 19, config.n_embd)
    keys, values = torch.randn(2, *shape)
    stored.store(1, keys, values)
    block, size = stored._keys.size(5), config.n_embd // config.n_head
    for position in range(19):
        key = stored._keys[:, 1, :, position // block, :, position % block]
        assert torch.equal(key.flatten(1), keys[:, position])
        value = stored._values[:, 1, :, position, :size]
        assert torch.equal(value.flatten(1), values[:, position])
    assert not stored._keys[:, 0].any()


def test_int8_is_off_by_half_a_step_at_most(seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(50, 70) * torch.logspace(-3, 3, 50)[:, None]
    weight[7] = 0
    packed = PackedMatrix.pack(weight, "int8")
    assert packed.scales is not None
    error = (packed.unpack() - weight).abs().amax(dim=1)
    assert (error <= packed.scales * (0.5 + 1e-4)).all()
    assert packed.data.abs().amax(dim=1)[torch.arange(50) != 7].eq(127).all()
    assert not packed.unpack()[7].any()


def test_what_does_not_fit_is_refused(seed: int) -> None:
    weights = pack(draw(ODD, seed), "bfloat16")
    step = DecodeStep(weights, 2, bfloat16_cache=False)
    for arguments, message in [
        (([323], [0], [0]), r"ids must be 1 numbers in \[0, 323\)"),
        (([1], [2], [0]), r"rows must be 1 numbers in \[0, 2\)"),
        (([1], [0], [37]), r"positions must be 1 numbers in \[0, 37\)"),
        (([1, 2], [0], [0, 0]), "rows must be 2 numbers"),
        (([1, 2], [0, 0], [0, 0]), "rows must be distinct"),
    ]:
        with pytest.raises(ValueError, match=message):
            step.run(*arguments)
    with pytest.raises(ValueError, match="weights can be float32, bfloat16, int8, not int4"):
        PackedMatrix.pack(torch.zeros(2, 2), "int4")
    with pytest.raises(ValueError, match="CPU level 'sse9'"):
        DecodeStep(weights, 1, bfloat16_cache=False, level="sse9")
    weights.layers[1].c_fc.weight.data.resize_(3, 51)
    with pytest.raises(ValueError, match=r"c_fc must be \(204, 51\)"):
        DecodeStep(weights, 1, bfloat16_cache=False)
