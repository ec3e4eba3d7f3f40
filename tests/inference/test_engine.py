"""Continuous batching: requests come and go, each as if it were alone."""

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt.inference.engine import Engine, Piece, Request
from pygpt.inference.sampling import Sampling
from pygpt.tokenizers.base import Tokenizer, get_tokenizer

CONFIG = GPTConfig(block_size=16, vocab_size=320, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return get_tokenizer("bytes")


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(CONFIG).double().eval()
    torch.nn.init.normal_(model.wte.weight)
    return model


def writes(model: GPT, index: int) -> GPT:
    """A model that always writes one id."""
    with torch.no_grad():
        model.ln_f.weight.zero_()
        assert model.ln_f.bias is not None
        model.ln_f.bias.fill_(1.0)
        model.wte.weight.zero_()
        model.wte.weight[index] = 1.0
    return model


def finish(engine: Engine) -> dict[int, list[Piece]]:
    pieces: dict[int, list[Piece]] = {}
    while engine.active:
        for piece in engine.step():
            pieces.setdefault(piece.key, []).append(piece)
    return pieces


def test_requests_join_and_leave(model: GPT, tokenizer: Tokenizer, seed: int) -> None:
    requests = [
        Request(list(b"abcdefgh"[: 1 + i]), 5 + 3 * i, Sampling(1.0), seed=seed + i)
        for i in range(5)
    ]
    engine = Engine(model, tokenizer, max_batch=2)
    pieces: dict[int, list[Piece]] = {}
    keys = []
    for request in requests:  # one joins before each of the first steps, while others are at work
        keys.append(engine.add(request))
        for piece in engine.step():
            pieces.setdefault(piece.key, []).append(piece)
    for key, rest in finish(engine).items():
        pieces.setdefault(key, []).extend(rest)
    for key, request in zip(keys, requests, strict=True):
        alone = Engine(model, tokenizer, max_batch=1)
        alone_key = alone.add(request)
        expected = finish(alone)[alone_key]
        assert [p.token for p in pieces[key]] == [p.token for p in expected]
        assert [p.finish_reason for p in pieces[key]] == [p.finish_reason for p in expected]


def test_waiting_requests_count_as_active_and_start_in_order(
    model: GPT, tokenizer: Tokenizer
) -> None:
    engine = Engine(writes(model, ord("x")), tokenizer, max_batch=1)
    keys = [engine.add(Request([1], 2)) for _ in range(3)]
    assert engine.active == 3
    order = []
    while engine.active:
        order += [piece.key for piece in engine.step()]
    assert order == [key for key in keys for _ in range(2)]
    assert engine.step() == []


def test_cancel(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(writes(model, ord("x")), tokenizer, max_batch=1)
    running, waiting, other = (engine.add(Request([1], 3)) for _ in range(3))
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    engine.cancel(waiting)
    assert engine.active == 1
    assert {piece.key for piece in engine.step()} == {other}


def test_finish_reasons(model: GPT, tokenizer: Tokenizer) -> None:
    end_of_text = tokenizer.info.end_of_text

    def run(index: int, request: Request) -> list[Piece]:
        engine = Engine(writes(model, index), tokenizer)
        engine.add(request)
        return finish(engine)[0]

    pieces = run(ord("x"), Request([1], 3))
    assert [(p.text, p.finish_reason) for p in pieces] == [
        ("x", None),
        ("x", None),
        ("x", "length"),
    ]
    (piece,) = run(end_of_text, Request([1], 3))
    assert (piece.token, piece.text, piece.finish_reason) == (end_of_text, "", "stop")
    (piece,) = run(ord("x"), Request([1], 3, stop_ids=frozenset({ord("x")})))
    assert (piece.text, piece.finish_reason) == ("", "stop")
    (piece,) = run(300, Request([1], 3, stop_ids=frozenset({300})))  # of the padding
    assert (piece.token, piece.text, piece.finish_reason) == (300, "", "stop")
    pieces = run(ord("x"), Request([1], 9, stop=("yy", "xxx")))
    assert [(p.text, p.finish_reason) for p in pieces] == [("", None), ("", None), ("", "stop")]
    pieces = run(ord("x"), Request([1], 2, stop=("xxx",)))
    assert [(p.text, p.finish_reason) for p in pieces] == [("", None), ("xx", "length")]


def test_half_a_character_at_the_end(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(writes(model, 0xC3), tokenizer)
    engine.add(Request([1], 1))
    (piece,) = engine.step()
    assert (piece.text, piece.finish_reason) == ("\ufffd", "length")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 1), "at least one id"),
        (Request([320], 1), "id 320 is not in the model's vocabulary, which has the ids 0 to 319"),
        (Request([5, -1], 1), "id -1 is not"),
        (Request([1], 1, stop_ids=frozenset({999})), "id 999 is not"),
        (Request([1], 0), "max_new_tokens must be at least 1, got 0"),
        (Request([1], 1, stop=("",)), "a stop string can't be empty"),
        (Request([1], 1, seed=-1), "seed must be in"),
    ],
)
def test_bad_requests_are_refused(
    request_: Request, message: str, model: GPT, tokenizer: Tokenizer
) -> None:
    engine = Engine(model, tokenizer)
    with pytest.raises(InputError, match=message):
        engine.add(request_)
    assert not engine.active


def test_logits_with_the_cache_are_those_without(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer)
    key = engine.add(Request(list(b"abc"), 12, logprobs=True))
    pieces = finish(engine)[key]
    ids = [*b"abc", *(piece.token for piece in pieces)]
    logits = model.head(model.hidden(torch.tensor([ids])))[0, 2:-1]
    expected = logits.log_softmax(-1)[range(len(pieces)), ids[3:]]
    assert [p.logprob for p in pieces] == pytest.approx(expected.tolist(), abs=1e-5)
