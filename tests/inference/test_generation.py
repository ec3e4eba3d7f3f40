"""Generation: the cache changes nothing, a prompt's text does not depend on the others."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pygpt import GPT, GPTConfig, InputError, generate
from pygpt.inference.decoders import Dtype, Quantize
from pygpt.inference.engine import Piece
from pygpt.inference.generation import Completion
from pygpt.inference.sampling import Sampling
from pygpt.tokenizers.base import Tokenizer, get_tokenizer

CONFIG = GPTConfig(block_size=16, vocab_size=320, n_layer=2, n_head=2, n_embd=32)
GREEDY = Sampling(temperature=0)
N_VOCAB = 257


@pytest.fixture
def tokenizer() -> Tokenizer:
    return get_tokenizer("bytes")


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(CONFIG).double().eval()
    torch.nn.init.normal_(model.wte.weight)  # logits far apart: no ties
    return model


def test_greedy_with_cache_is_argmax_without(model: GPT, tokenizer: Tokenizer) -> None:
    (written,) = generate(model, tokenizer, "abc", CONFIG.block_size - 3, sampling=GREEDY)
    context = list(b"abc")
    for index in written.ids:
        logits, _ = model(torch.tensor([context]))
        assert index == int(logits[0, -1, :N_VOCAB].argmax())
        context.append(index)


def test_past_block_size_each_id_sees_at_least_half_a_context(
    model: GPT, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        model.wte.weight[tokenizer.info.end_of_text] = 0.0  # never the likeliest
    (written,) = generate(model, tokenizer, "a", 50, sampling=GREEDY)
    assert len(written.ids) == 50
    context = [*b"a", *written.ids]
    half = CONFIG.block_size // 2
    for end in range(CONFIG.block_size + 1, len(context)):
        # The context was cut to its newer half each time it had filled up.
        length = half + (end - CONFIG.block_size - 1) % half
        logits, _ = model(torch.tensor([context[end - length : end]]))
        assert context[end] == int(logits[0, -1, :N_VOCAB].argmax()), end


def test_only_the_end_of_a_long_prompt_is_read(
    model: GPT, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "The quick brown fox jumps"
    long, short = generate(
        model, tokenizer, [prompt, prompt[-CONFIG.block_size :]], 12, sampling=GREEDY
    )
    assert long == short
    assert "has 25 tokens: the model reads the last 16" in caplog.text


def test_unequal_prompts_in_a_batch_are_independent(model: GPT, tokenizer: Tokenizer) -> None:
    prompts = ["a", "The quick brown", "", "no", "abcdefgh", "bb"]
    seeds = [3, 1, 4, 1, 5, 9]
    together = generate(model, tokenizer, prompts, 24, seed=seeds, max_batch=4, logprobs=True)
    for prompt, seed, got in zip(prompts, seeds, together, strict=True):
        (alone,) = generate(model, tokenizer, prompt, 24, seed=seed, logprobs=True)
        assert (got.text, got.ids) == (alone.text, alone.ids)
        assert got.logprobs == pytest.approx(alone.logprobs, abs=1e-5)  # logits are given in fp32


def test_same_seed_same_text(model: GPT, tokenizer: Tokenizer, seed: int) -> None:
    # Nearly uniform: at 5 a drawn model may still repeat one id with all seeds.
    sampling = Sampling(temperature=100.0)
    first, again, other = generate(
        model, tokenizer, ["a"] * 3, 20, sampling=sampling, seed=[seed, seed, seed + 1]
    )
    assert first == again
    assert first.ids != other.ids


def test_padded_ids_are_never_chosen(model: GPT, tokenizer: Tokenizer, seed: int) -> None:
    with torch.no_grad():
        model.wte.weight[N_VOCAB:] *= 100  # the likeliest by far, if they were allowed
    for written in generate(
        model,
        tokenizer,
        ["a"] * 4,
        50,
        sampling=Sampling(temperature=2.0),
        seed=range(seed, seed + 4),
    ):
        assert max(written.ids) < N_VOCAB


def test_logprobs_are_the_models(model: GPT, tokenizer: Tokenizer) -> None:
    (written,) = generate(model, tokenizer, "abc", 10, logprobs=True)
    logits, _ = model(ids := torch.tensor([[*b"abc", *written.ids]]), ids)
    expected = logits[0, 2:-1].log_softmax(dim=-1)
    expected = expected.gather(1, torch.tensor(written.ids)[:, None])[:, 0]
    assert written.logprobs == pytest.approx(expected.tolist(), abs=1e-5)


def test_pieces_are_the_text_as_it_is_written(model: GPT, tokenizer: Tokenizer) -> None:
    pieces: list[tuple[int, Piece]] = []
    written = generate(
        model,
        tokenizer,
        ["ab", "c"],
        30,
        on_piece=lambda index, piece: pieces.append((index, piece)),
    )
    for index, completion in enumerate(written):
        mine = [piece for i, piece in pieces if i == index]
        assert "".join(piece.text for piece in mine) == completion.text
        assert tuple(piece.token for piece in mine) == completion.ids
    assert [i for i, _ in pieces[:4]] == [0, 1, 0, 1]


def test_under_autocast(model: GPT, tokenizer: Tokenizer) -> None:
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        (written,) = generate(model, tokenizer, "abc", 20, sampling=GREEDY)
    assert written.ids


def test_bad_input_is_refused(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="max_new_tokens must be at least 1, got 0"):
        generate(model, tokenizer, "a", 0)
    with pytest.raises(InputError, match="2 prompts need as many seeds, or one; got 3"):
        generate(model, tokenizer, ["a", "b"], seed=[1, 2, 3])
    with pytest.raises(InputError, match="is not valid text"):
        generate(model, tokenizer, "\ud800")
    with pytest.raises(InputError, match="a stop string can't be empty"):
        generate(model, tokenizer, "a", stop=["x", ""])
    with pytest.raises(InputError, match="max_batch must be at least 1"):
        generate(model, tokenizer, "a", max_batch=0)


@pytest.mark.parametrize(
    ("dtype", "quantize"), [("float32", None), ("bfloat16", None), ("auto", "int8")]
)
@given(
    prompts=st.lists(st.text("ab é", max_size=40), min_size=1, max_size=5),
    max_batch=st.integers(1, 5),
    drawn=st.integers(0, 2**32),
)
@settings(max_examples=20, deadline=None)
def test_natively_a_prompt_in_a_batch_gives_the_bits_of_the_prompt_alone(
    dtype: Dtype, quantize: Quantize | None, prompts: list[str], max_batch: int, drawn: int
) -> None:
    torch.manual_seed(drawn)
    model = GPT(CONFIG).eval()
    torch.nn.init.normal_(model.wte.weight)
    tokenizer = get_tokenizer("bytes")

    def write(prompts: list[str], seeds: Sequence[int]) -> list[Completion]:
        return generate(
            model, tokenizer, prompts, 24, sampling=Sampling(1.0), seed=seeds, logprobs=True,
            max_batch=max_batch, dtype=dtype, quantize=quantize,
        )  # fmt: skip

    together = write(prompts, range(drawn, drawn + len(prompts)))
    for i, prompt in enumerate(prompts):
        assert [together[i]] == write([prompt], [drawn + i])  # log-probabilities, too
