"""A checkpoint's tokenizer, as transformers reads it: the same ids and the same text."""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from pygpt import GPT, GPTConfig, InputError
from pygpt.config import TrainConfig
from pygpt.hub.tokenizer_files import identify, tokenizer_files
from pygpt.runs import checkpoint
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.chars import CharTokenizer
from pygpt.tokenizers.chat import ROLES, Message, special_ids
from pygpt.training.optimizer import build_optimizer

TEXTS = ["Hello  world\n\n x", "naïve 日本語 \t 😀", "  lead", "a's 12 <b> ½", "", "\x00\r\n"]
TOKENIZERS = {
    "gpt2": get_tokenizer("gpt2"),
    "bytes": get_tokenizer("bytes"),
    "chars": CharTokenizer("".join(TEXTS) + "The"),
    "gpt2-chat": chat_tokenizer(get_tokenizer("gpt2")),
    "bytes-chat": chat_tokenizer(get_tokenizer("bytes")),
}
READERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of a small model for each tokenizer."""
    found = {}
    for name, tokenizer in TOKENIZERS.items():
        info = tokenizer.info
        model = GPT(GPTConfig(16, info.n_vocab + 7, n_layer=1, n_head=1, n_embd=8), "eager")
        optimizer = build_optimizer(model, TrainConfig())
        folder = tmp_path_factory.mktemp(name)
        state = checkpoint.TrainerState(1, None)
        found[name] = checkpoint.save(folder, model, optimizer, info, state)
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_auto_tokenizer_gives_the_same_ids_and_text(
    directories: dict[str, Path], name: str
) -> None:
    ours = TOKENIZERS[name]
    theirs = transformers.AutoTokenizer.from_pretrained(directories[name])
    assert len(theirs) == ours.info.n_vocab
    assert theirs.eos_token_id == theirs.bos_token_id == ours.info.end_of_text
    assert theirs.model_max_length == 16
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids) == text


@pytest.mark.parametrize("name", ["gpt2", "bytes"])
def test_the_chat_template_gives_the_same_ids(
    directories: dict[str, Path], name: str, seed: int
) -> None:
    draw = random.Random(seed)
    texts = [*TEXTS[:-1], "", "\n\nleading", "trailing \n"]
    messages = [Message(draw.choice(ROLES), draw.choice(texts)) for _ in range(8)]
    fields = [{"role": each.role, "content": each.content} for each in messages]
    ours = chat_tokenizer(get_tokenizer(name))
    theirs = transformers.AutoTokenizer.from_pretrained(directories[f"{name}-chat"])
    conversation, _ = ours.encode_conversation(messages)
    assert theirs.apply_chat_template(fields)["input_ids"] == conversation.tolist()
    prompt = theirs.apply_chat_template(fields, add_generation_prompt=True)["input_ids"]
    assert prompt == ours.encode_prompt(messages)
    with pytest.raises(Exception, match="unknown role tool"):
        theirs.apply_chat_template([{"role": "tool", "content": "x"}])
    ids = special_ids(ours.info)
    assert {token: theirs.convert_tokens_to_ids(token) for token in ids} == ids
    stored = transformers.GenerationConfig.from_pretrained(directories[f"{name}-chat"])
    assert stored.eos_token_id == [ours.info.end_of_text, ours.end_of_turn]


def test_the_slow_readers_files_are_gpt2s_own(directories: dict[str, Path]) -> None:
    vocab = json.loads((directories["gpt2"] / "vocab.json").read_text(encoding="utf-8"))
    merges = (directories["gpt2"] / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(vocab) == 50257
    assert vocab["<|endoftext|>"] == 50256
    assert merges[:3] == ["#version: 0.2", "Ġ t", "Ġ a"]
    assert len(merges) == 1 + 50000


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_pipeline_of_transformers_writes(directories: dict[str, Path], name: str) -> None:
    pipeline = transformers.pipeline("text-generation", str(directories[name]))
    torch.manual_seed(0)  # which text does not matter, only that padded ids never come
    written = pipeline("The", max_new_tokens=8, do_sample=True)[0]["generated_text"]
    assert written.startswith("The")


def test_a_checkpoint_has_every_file_a_reader_asks_for(directories: dict[str, Path]) -> None:
    for path in directories.values():
        assert {*READERS, "config.json", "generation_config.json"} <= {
            file.name for file in path.iterdir()
        }


@pytest.mark.parametrize("file", ["vocab.json", "tokenizer.json"])
def test_gpt2s_vocabulary_and_bytes_are_recognised_and_another_refused(
    tmp_path: Path, file: str
) -> None:
    gpt2 = get_tokenizer("gpt2")
    text = tokenizer_files(gpt2, 16)[file]
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert identify(tmp_path, 50304) == gpt2.info
    of_bytes = tokenizer_files(get_tokenizer("bytes"), 16)[file]
    (tmp_path / file).write_text(of_bytes, encoding="utf-8")
    assert identify(tmp_path, 320) == get_tokenizer("bytes").info
    (tmp_path / file).write_text(text.replace('"Ġt": 256', '"Ġzz": 256'), encoding="utf-8")
    with pytest.raises(InputError, match="not GPT-2's: 'Ġzz' is 256, and in GPT-2's no token"):
        identify(tmp_path, 50257)
    (tmp_path / file).write_text('{"model": []}')
    with pytest.raises(InputError, match="has no vocabulary|'model' is"):
        identify(tmp_path, 50257)


def test_a_directory_without_tokenizer_files_is_judged_by_its_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert identify(tmp_path, 50304).name == "gpt2"
    assert "no tokenizer files: taken as GPT-2's" in caplog.text
    with pytest.raises(InputError, match="its 32000 ids are not GPT-2's 50257"):
        identify(tmp_path, 32000)
