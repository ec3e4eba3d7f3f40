"""Which decoder a model gets, and the native one beside the eager one."""

from __future__ import annotations

import logging

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError, generate
from pygpt.inference.decoders import EagerDecoder, NativeDecoder, make_decoder
from pygpt.inference.sampling import Sampling
from pygpt.tokenizers.base import get_tokenizer

CONFIG = GPTConfig(block_size=24, vocab_size=320, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(CONFIG).eval()
    torch.nn.init.normal_(model.wte.weight)
    return model


def test_a_prompt_and_steps_give_the_eager_logits(model: GPT) -> None:
    native, eager = NativeDecoder(model, 3, "float32"), EagerDecoder(model, 3)
    for row, length in enumerate((CONFIG.block_size - 4, 1, 2)):
        ids = torch.randint(320, (length,)).tolist()
        native.read(row, [5, 6, 7])  # what a row has read before is forgotten
        torch.testing.assert_close(native.read(row, ids), eager.read(row, ids))
    for rows in ([0, 1, 2], [2, 0], [1], [0, 1, 2]):
        ids = torch.randint(320, (len(rows),)).tolist()
        torch.testing.assert_close(native.step(rows, ids), eager.step(rows, ids))


@pytest.mark.parametrize(("weights", "unit"), [("bfloat16", 2**-8), ("int8", 1 / 127)])
def test_rounded_weights_stay_near(model: GPT, weights: str, unit: float) -> None:
    """A weight is off by half a unit at most; a few layers of such errors stay below 4 units."""
    rounded, exact = NativeDecoder(model, 1, weights), EagerDecoder(model, 1)
    ids = torch.randint(320, (20,)).tolist()
    truth = exact.read(0, ids)
    assert (rounded.read(0, ids) - truth).square().mean().sqrt() < 4 * unit * truth.std()


def test_choice(model: GPT, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert make_decoder(model, 1).description.startswith("float32 weights, native")
    assert make_decoder(model, 1, dtype="bfloat16").description.startswith("bfloat16 weights")
    assert make_decoder(model, 1, quantize="int8").description.startswith("int8 weights, native")
    with torch.autocast("cpu", torch.bfloat16):
        assert make_decoder(model, 1).description.startswith("bfloat16 weights, native")
    assert not caplog.text
    assert isinstance(make_decoder(GPT(CONFIG, "eager").eval(), 1), EagerDecoder)
    assert "decoding with PyTorch's ops: the model's impl is eager" in caplog.text
    assert isinstance(make_decoder(model.double(), 1), EagerDecoder)
    assert "takes float32 and bfloat16, not float64" in caplog.text


def test_eager_in_bfloat16(model: GPT) -> None:
    eager = GPT(CONFIG, "eager").eval()
    eager.load_state_dict(model.state_dict())
    decoder = make_decoder(eager, 1, dtype="bfloat16")
    assert decoder.description.startswith("bfloat16, ")
    with torch.autocast("cpu", torch.bfloat16):
        expected = EagerDecoder(eager, 1)
        expected_logits = expected.read(0, [1, 2, 3]), expected.step([0], [4])
    assert torch.equal(decoder.read(0, [1, 2, 3]), expected_logits[0])
    assert torch.equal(decoder.step([0], [4]), expected_logits[1])


def test_what_cannot_run_is_refused(model: GPT) -> None:
    with pytest.raises(InputError, match="dtype must be auto, float32 or bfloat16, got 'float16'"):
        make_decoder(model, 1, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="quantize must be None or int8, got 'int4'"):
        make_decoder(model, 1, quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="quantize=int8 needs the native decoder: .* float64"):
        make_decoder(model.double(), 1, quantize="int8")


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_text_is_the_same_alone_and_in_a_batch(model: GPT, quantize: str | None, seed: int) -> None:
    tokenizer = get_tokenizer("bytes")
    prompts = ["a", "The quick brown", "", "no", "abcdefgh"]
    arguments = {"sampling": Sampling(2.0), "seed": seed, "logprobs": True, "quantize": quantize}
    together = generate(model, tokenizer, prompts, 40, max_batch=3, **arguments)  # type: ignore[arg-type]
    for prompt, got in zip(prompts, together, strict=True):
        assert generate(model, tokenizer, prompt, 40, **arguments) == [got]  # type: ignore[arg-type]
