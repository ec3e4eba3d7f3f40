"""GGUF files, as llama.cpp itself reads them: its server decodes the same greedy ids."""

from pathlib import Path

import pytest
import torch
from lib import llama_cpp
from lib.llama_cpp import llama_server, post

from pygpt import GPT, GPTConfig, InputError
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.chat import JINJA_TEMPLATE, Message, special_ids
from tests.helpers.greedy import N_TOKENS, PROMPT, greedy, varied_model

gguf = pytest.importorskip("gguf", reason="waits for the package gguf: pip install gguf")
from pygpt.hub import gguf_file  # noqa: E402

needs_llama = pytest.mark.skipif(llama_cpp.PACKAGE is None, reason=f"waits for {llama_cpp.MISSING}")


@needs_llama
@pytest.mark.parametrize(
    ("tokenizer", "bias", "dtype", "tolerance"),
    [
        ("gpt2", True, "float32", 0.002),
        ("bytes", False, "float32", 0.002),
        ("gpt2", True, "float16", 0.05),
        ("gpt2", True, "bfloat16", 0.3),
        ("gpt2", True, "q8_0", 0.5),
    ],
)
def test_llama_cpp_computes_the_same(
    seed: int, tmp_path: Path, tokenizer: str, bias: bool, dtype: str, tolerance: float
) -> None:
    ours = get_tokenizer(tokenizer)
    model = varied_model(seed, ours, bias=bias)
    path = tmp_path / "model.gguf"
    gguf_file.write(path, model, ours, dtype)
    ids = ours.encode(PROMPT)
    with llama_server(path) as address, torch.no_grad():
        assert post(address, "/tokenize", content=PROMPT)["tokens"] == ids
        assert post(address, "/detokenize", tokens=ids)["content"] == PROMPT
        answer = post(
            address, "/completion", prompt=ids, n_predict=N_TOKENS, temperature=0, n_probs=5,
            cache_prompt=False, return_tokens=True, ignore_eos=True,
        )  # fmt: skip
        logits, _ = model(torch.tensor([ids]))
        expected = logits[0, -1].log_softmax(-1)
        for top in answer["completion_probabilities"][0]["top_logprobs"]:
            assert abs(top["logprob"] - expected[top["id"]]) < tolerance
        if dtype == "float32":
            assert answer["tokens"] == greedy(model, ours)[0]


def test_the_file_has_the_chat_template_and_its_tokens(tmp_path: Path, seed: int) -> None:
    ours = chat_tokenizer(get_tokenizer("bytes"))
    path = tmp_path / "model.gguf"
    gguf_file.write(path, varied_model(seed, ours), ours, "float32")
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.chat_template"].contents() == JINJA_TEMPLATE
    assert fields["tokenizer.ggml.eot_token_id"].contents() == ours.end_of_turn
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    for token, index in special_ids(ours.info).items():
        assert (tokens[index], types[index]) == (token, gguf.TokenType.CONTROL)


@needs_llama
@pytest.mark.parametrize("name", ["gpt2", "bytes"])
def test_llama_cpp_renders_a_dialogue_to_the_same_ids(seed: int, tmp_path: Path, name: str) -> None:
    ours = chat_tokenizer(get_tokenizer(name))
    path = tmp_path / "model.gguf"
    gguf_file.write(path, varied_model(seed, ours), ours, "float32")
    messages = [Message("system", "Be kind."), Message("user", "naïve  Hi\n"),
                Message("assistant", "Yo"), Message("user", "😀?")]  # fmt: skip
    fields = [{"role": each.role, "content": each.content} for each in messages]
    with llama_server(path, "--jinja") as address:
        prompt = post(address, "/apply-template", messages=fields)["prompt"]
        ids = post(address, "/tokenize", content=prompt, parse_special=True)["tokens"]
    assert ids == ours.encode_prompt(messages)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    info = get_tokenizer("bytes")
    model = GPT(GPTConfig(8, 257, n_layer=1, n_head=1, n_embd=40), "eager")
    with pytest.raises(InputError, match=r"n_embd=40 is not a multiple of that; take --dtype flo"):
        gguf_file.write(tmp_path / "x.gguf", model, info, "q8_0")
