"""Generation: the cache changes nothing, every knob does what it says."""

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt.inference.generation import Sampling, generate

CONFIG = GPTConfig(block_size=16, vocab_size=64, n_layer=2, n_head=2, n_embd=32)
N_VOCAB = 50


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(CONFIG).double().eval()
    torch.nn.init.normal_(model.wte.weight)  # logits far apart: no ties
    return model


def ids(model: GPT, prompt: list[int], n: int, **kwargs: object) -> list[int]:
    steps = generate(model, torch.tensor([prompt]), n, n_vocab=N_VOCAB, **kwargs)  # type: ignore[arg-type]
    return [int(step) for step in steps]


def test_greedy_with_cache_is_argmax_without(model: GPT) -> None:
    prompt = [3, 1, 4]
    context = list(prompt)
    for _ in range(CONFIG.block_size - len(prompt)):
        logits, _ = model(torch.tensor([context]))
        context.append(int(logits[0, -1, :N_VOCAB].argmax()))
    greedy = ids(model, prompt, CONFIG.block_size - len(prompt), sampling=Sampling(temperature=0))
    assert prompt + greedy == context


def test_under_autocast_the_cache_takes_the_dtype_of_the_keys(model: GPT) -> None:
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        greedy = ids(model, [3, 1, 4], 20, sampling=Sampling(temperature=0))
    assert len(greedy) == 20


def test_past_block_size_each_id_sees_at_least_half_a_context(model: GPT) -> None:
    out = ids(model, [7], 50, sampling=Sampling(temperature=0))
    assert len(out) == 50
    context = [7, *out]
    half = CONFIG.block_size // 2
    for end in range(CONFIG.block_size + 1, len(context)):
        # The context was cut to its newer half each time it had filled up.
        length = half + (end - CONFIG.block_size - 1) % half
        logits, _ = model(torch.tensor([context[end - length : end]]))
        assert context[end] == int(logits[0, -1, :N_VOCAB].argmax()), end


def test_padded_ids_are_never_chosen(model: GPT, seed: int) -> None:
    with torch.no_grad():
        model.wte.weight[N_VOCAB:] *= 100  # the likeliest by far, if they were allowed
    generator = torch.Generator().manual_seed(seed)
    out = ids(model, [1], 100, sampling=Sampling(temperature=2.0), generator=generator)
    assert max(out) < N_VOCAB


def test_same_seed_same_text(model: GPT, seed: int) -> None:
    def run(s: int) -> list[int]:
        generator = torch.Generator().manual_seed(s)
        # Nearly uniform: at 5 a drawn model may still repeat one id with all seeds.
        return ids(model, [1], 20, sampling=Sampling(temperature=100.0), generator=generator)

    assert run(seed) == run(seed)
    assert run(seed) != run(seed + 1)


def test_rows_of_a_batch_are_independent(model: GPT) -> None:
    both = torch.tensor([[1, 2, 3], [9, 8, 7]])
    steps = list(generate(model, both, 8, n_vocab=N_VOCAB, sampling=Sampling(temperature=0)))
    for row in range(2):
        alone = ids(model, both[row].tolist(), 8, sampling=Sampling(temperature=0))
        assert [int(step[row]) for step in steps] == alone


def test_top_k_and_top_p_keep_the_likeliest(seed: int) -> None:
    torch.manual_seed(seed)
    probs = torch.tensor([[0.05, 0.4, 0.1, 0.3, 0.15]])
    logits = probs.log().expand(2000, -1)

    def chosen(sampling: Sampling) -> set[int]:
        return set(sampling.choose(logits).tolist())

    assert chosen(Sampling(temperature=1.0)) == {0, 1, 2, 3, 4}
    assert chosen(Sampling(temperature=1.0, top_k=2)) == {1, 3}
    assert chosen(Sampling(temperature=1.0, top_k=99)) == {0, 1, 2, 3, 4}
    assert chosen(Sampling(temperature=1.0, top_p=0.6)) == {1, 3}
    assert chosen(Sampling(temperature=1.0, top_p=0.01)) == {1}
    assert chosen(Sampling(temperature=0)) == {1}


def test_temperature_one_follows_the_distribution(seed: int) -> None:
    torch.manual_seed(seed)
    probs = torch.tensor([0.1, 0.2, 0.7])
    n = 20_000
    draws = Sampling(temperature=1.0).choose(probs.log().expand(n, -1))
    share = torch.bincount(draws, minlength=3) / n
    # Five standard errors of a share: √(p(1-p)/n).
    assert ((share - probs).abs() < 5 * (probs * (1 - probs) / n).sqrt()).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 .* to 10000, got -1"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 1e-40}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, "got 1.5"),
    ],
)
def test_senseless_sampling_is_refused(kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**kwargs)  # type: ignore[arg-type]


def test_empty_prompt_is_refused(model: GPT) -> None:
    with pytest.raises(InputError, match="at least one id"):
        list(generate(model, torch.zeros(1, 0, dtype=torch.int64), 1, n_vocab=N_VOCAB))
