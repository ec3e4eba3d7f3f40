"""The model: GPT-2 to the letter, nanoGPT's contract, the same with a cache as without."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pygpt import GPT, GPTConfig, InputError

SMALL = GPTConfig(block_size=24, vocab_size=128, n_layer=2, n_head=3, n_embd=48)


def textbook_gpt2(state: dict[str, Tensor], config: GPTConfig, idx: Tensor) -> Tensor:
    """GPT-2's logits written out with plain matrix products, independent of pygpt.model."""

    def linear(x: Tensor, name: str) -> Tensor:
        bias = state.get(f"{name}.bias", torch.zeros(()))
        return x @ state[f"{name}.weight"].T + bias

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state.get(f"{name}.bias", torch.zeros(()))

    n, size = idx.size(1), config.n_embd // config.n_head
    x = state["wte.weight"][idx] + state["wpe.weight"][:n]
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    for layer in range(config.n_layer):
        block = f"h.{layer}"
        heads = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k, v = (
            part.unflatten(2, (config.n_head, size)).transpose(1, 2) for part in heads.chunk(3, 2)
        )
        scores = (q @ k.transpose(2, 3) / math.sqrt(size)).masked_fill(~mask, -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}.attn.c_proj")
        h = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"{block}.mlp.c_proj")
    return norm(x, "ln_f") @ state["wte.weight"].T


@pytest.mark.parametrize("bias", [True, False])
def test_is_gpt2(seed: int, bias: bool) -> None:
    torch.manual_seed(seed)
    config = GPTConfig(**{**vars(SMALL), "bias": bias})
    model = GPT(config).double()
    for parameter in model.parameters():  # no zeros and ones, which would hide a mix-up
        torch.nn.init.normal_(parameter, std=0.3)
    idx = torch.randint(config.vocab_size, (2, 17))
    targets = torch.randint(config.vocab_size, (2, 17))
    logits, loss = model(idx, targets)
    truth = textbook_gpt2(model.state_dict(), config, idx)
    torch.testing.assert_close(logits, truth, rtol=1e-9, atol=1e-9)
    assert loss is not None
    # The loss is taken in fp32 at least; in fp64 it is exact here.
    expected = F.cross_entropy(truth.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_initial_loss_is_that_of_a_uniform_guess(seed: int) -> None:
    torch.manual_seed(seed)
    config = GPTConfig(block_size=64, vocab_size=512, n_layer=2, n_head=2, n_embd=64)
    idx = torch.randint(config.vocab_size, (8, 65))
    loss = GPT(config).loss(idx[:, :-1], idx[:, 1:])
    # Logits start with a variance of n_embd·0.02² = 0.026: half of that is what it costs.
    assert abs(loss.item() - math.log(config.vocab_size)) < 0.1


def test_initial_weights_have_gpt2s_scales(seed: int) -> None:
    torch.manual_seed(seed)
    config = GPTConfig(block_size=256, vocab_size=512, n_layer=8, n_head=4, n_embd=256)
    model = GPT(config)
    block = model.h[3]
    expected = {
        model.wte.weight: 0.02,
        model.wpe.weight: 0.02,
        block.attn.c_attn.weight: 0.02,
        block.mlp.c_fc.weight: 0.02,
        block.attn.c_proj.weight: 0.02 / 4,
        block.mlp.c_proj.weight: 0.02 / 4,
    }
    for parameter, std in expected.items():
        # The standard error of a standard deviation over n values is std/√(2n): five of them.
        assert abs(parameter.std().item() - std) < 5 * std / math.sqrt(2 * parameter.numel())
    assert block.attn.c_attn.bias.abs().max() == 0
    assert (block.ln_1.weight == 1).all()


def test_without_targets_only_the_last_position_is_computed(seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(SMALL)
    idx = torch.randint(SMALL.vocab_size, (2, 9))
    last, none = model(idx)
    full, _ = model(idx, idx)
    assert none is None
    assert last.shape == (2, 1, SMALL.vocab_size)
    assert full.shape == (2, 9, SMALL.vocab_size)
    torch.testing.assert_close(last, full[:, -1:], rtol=1e-5, atol=1e-6)


def test_a_position_sees_nothing_that_follows(seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(SMALL)
    idx = torch.randint(SMALL.vocab_size, (1, 12))
    changed = idx.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % SMALL.vocab_size
    before, after = model.hidden(idx), model.hidden(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_targets_of_minus_one_do_not_count(seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(SMALL)
    idx = torch.randint(SMALL.vocab_size, (2, 10))
    targets = torch.randint(SMALL.vocab_size, (2, 10))
    targets[:, ::2] = -1
    per_token = model.loss(idx, targets, reduction="none")
    assert per_token.shape == targets.shape
    assert (per_token[:, ::2] == 0).all()
    torch.testing.assert_close(model.loss(idx, targets), per_token[:, 1::2].mean())


def test_dropout_only_in_training(seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**vars(SMALL), "dropout": 0.5}))
    idx = torch.randint(SMALL.vocab_size, (2, 10))
    assert not torch.equal(model.hidden(idx), model.hidden(idx))
    model.eval()
    assert torch.equal(model.hidden(idx), model.hidden(idx))


def test_too_long_a_context_is_refused() -> None:
    with pytest.raises(InputError, match="25 positions.*block_size=24"):
        GPT(SMALL).hidden(torch.zeros(1, 25, dtype=torch.int64))


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_parameter_count(bias: bool, positions: bool) -> None:
    config = GPTConfig(**{**vars(SMALL), "bias": bias})
    counted = sum(p.numel() for p in GPT(config).parameters())
    if not positions:
        counted -= config.block_size * config.n_embd
    assert config.n_params(positions=positions) == counted
