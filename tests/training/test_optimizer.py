"""AdamW over a model: its parameter groups, its state, clipping, and the update by its formula."""

import math

import pytest
import torch

from pygpt.config import GPTConfig, TrainConfig
from pygpt.model import GPT
from pygpt.training.optimizer import Updater, build_optimizer, clip_gradients, set_learning_rate

ULP = 2.0**-24  # half a unit in the last place of an fp32 number near 1


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=2, n_head=2, n_embd=16))


def set_gradients(model: GPT) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def test_matrices_decay_and_vectors_do_not(model: GPT) -> None:
    decayed, others = build_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    for parameter in decayed["params"]:
        assert names[parameter].endswith("weight")
        assert "ln_" not in names[parameter]
    for parameter in others["params"]:
        assert names[parameter].endswith("bias") or "ln_" in names[parameter]


def test_the_state_is_allocated_before_the_first_step(model: GPT) -> None:
    updater = Updater(model, TrainConfig())
    state = updater.optimizer.state
    before = {p: {k: v.data_ptr() for k, v in state[p].items()} for p in model.parameters()}
    for parameter in model.parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            assert state[parameter][moment].shape == parameter.shape
            assert not state[parameter][moment].any()
    set_gradients(model)
    updater.step(1e-3)
    after = {p: {k: v.data_ptr() for k, v in state[p].items()} for p in model.parameters()}
    assert before == after


def test_three_updates_follow_the_paper(model: GPT) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in fp64."""
    config = TrainConfig(beta1=0.8, beta2=0.95, weight_decay=0.1)
    updater, lr = Updater(model, config), 0.01
    weights = [p.detach().double() for p in model.parameters()]
    m, v = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for t in (1, 2, 3):
        set_gradients(model)
        for i, parameter in enumerate(model.parameters()):
            assert parameter.grad is not None
            g = parameter.grad.double()
            m[i] = 0.8 * m[i] + 0.2 * g
            v[i] = 0.95 * v[i] + 0.05 * g**2
            decay = 0.1 if parameter.dim() >= 2 else 0.0
            direction = (m[i] / (1 - 0.8**t)) / ((v[i] / (1 - 0.95**t)).sqrt() + 1e-8)
            weights[i] = weights[i] - lr * (direction + decay * weights[i])
        updater.step(lr)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        # A step rounds the weight three times; the direction, at most about 4, about ten times,
        # and the fp32 values of 1 - beta2^t and lr each once more.
        bound = 3 * (3 * ULP * weight.abs().clamp(min=0.1) + 16 * ULP * 4 * lr)
        assert ((parameter.detach() - weight).abs() <= bound).all()


def test_gradients_are_scaled_to_the_norm(model: GPT) -> None:
    set_gradients(model)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    expected = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
    norm = clip_gradients(model.parameters(), 0.25).item()
    # Sums of n squares in fp32: the relative error is at most n·2⁻²⁴, its square root's half.
    assert norm == pytest.approx(expected, rel=model.config.n_params() * ULP)
    for parameter, before in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        # torch divides by the norm + 1e-6.
        torch.testing.assert_close(
            parameter.grad, before * (0.25 / (norm + 1e-6)), rtol=4 * ULP, atol=0
        )


@pytest.mark.parametrize("max_norm", [0.0, 1e6])
def test_gradients_below_the_norm_and_with_zero_stay(model: GPT, max_norm: float) -> None:
    set_gradients(model)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert clip_gradients(model.parameters(), max_norm) > 1
    for parameter, before in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, before)


def test_the_rate_is_that_of_all_groups(model: GPT) -> None:
    optimizer = build_optimizer(model, TrainConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_zero_grad_frees_the_gradients(model: GPT) -> None:
    updater = Updater(model, TrainConfig())
    set_gradients(model)
    updater.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
