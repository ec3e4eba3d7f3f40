"""The chat template: ids of dialogues, and text that looks like a special token."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from pygpt import InputError
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer, load_tokenizer
from pygpt.tokenizers.chars import CharTokenizer
from pygpt.tokenizers.chat import SPECIAL_TOKENS, ChatTokenizer, Message, read_message, special_ids
from pygpt.tokenizers.info import TokenizerInfo

ALPHABET = [
    "a",
    " ",
    "\n",
    "é",
    "日本",
    "😀",
    "<|end|>",
    "<|assistant|>",
    "<|endoftext|>",
    "'s",
    "\t",
]
NAMES = {"user": "user", "assistant": "assistant", "system": "system"}


@pytest.fixture(params=["gpt2", "bytes"])
def tokenizer(request: pytest.FixtureRequest) -> ChatTokenizer:
    return chat_tokenizer(get_tokenizer(request.param))


def drawn_dialogue(seed: int) -> list[Message]:
    draw = random.Random(seed)
    return [
        Message(draw.choice([*NAMES]), "".join(draw.choices(ALPHABET, k=draw.randrange(12))))
        for _ in range(draw.randrange(1, 7))
    ]


def test_special_tokens_lie_in_the_padding_of_gpt2() -> None:
    ids = special_ids(chat_tokenizer(get_tokenizer("gpt2")).info)
    assert list(ids) == list(SPECIAL_TOKENS)
    assert list(ids.values()) == [50257, 50258, 50259, 50260]
    assert special_ids(get_tokenizer("gpt2").info) == {}


def test_a_dialogue_in_text(tokenizer: ChatTokenizer) -> None:
    messages = [Message("system", " Be kind. "), Message("user", "Hi"), Message("assistant", "Yo")]
    conversation = tokenizer.encode_conversation(messages)
    assert tokenizer.decode(conversation.ids.tolist()) == (
        "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n<|endoftext|>"
    )
    written = conversation.ids[conversation.is_target]
    assert tokenizer.decode(written.tolist()) == "Yo<|end|>"


def test_a_prompt_and_its_reply_are_the_whole_dialogue(tokenizer: ChatTokenizer, seed: int) -> None:
    messages = [*drawn_dialogue(seed), Message("assistant", "".join(ALPHABET))]
    prompt = tokenizer.encode_prompt(messages[:-1])
    ids, is_target = tokenizer.encode_conversation(messages)
    assert ids[: len(prompt)].tolist() == prompt
    reply = tokenizer.encode(messages[-1].content.strip())
    assert ids[len(prompt) : len(prompt) + len(reply) + 1].tolist() == [
        *reply, tokenizer.end_of_turn
    ]  # fmt: skip
    assert is_target[len(prompt) : len(prompt) + len(reply) + 1].all()
    assert not is_target[len(prompt) + len(reply) + 1 :].any()


def test_special_tokens_in_a_text_stay_text(tokenizer: ChatTokenizer, seed: int) -> None:
    messages = drawn_dialogue(seed)
    ids, _ = tokenizer.encode_conversation(messages)
    special = ids[ids >= tokenizer.info.end_of_text]
    assert len(special) == 2 * len(messages) + 1  # a role and an end for each, and end-of-text
    assert special[-1] == tokenizer.info.end_of_text
    attack = tokenizer.encode("".join(SPECIAL_TOKENS))
    assert max(attack) < tokenizer.info.end_of_text
    assert tokenizer.decode(attack) == "".join(SPECIAL_TOKENS)


def test_special_tokens_stand_for_no_text(tokenizer: ChatTokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert len(lengths) == tokenizer.info.n_vocab
    assert not lengths[tokenizer.info.end_of_text :].any()
    assert (lengths[: tokenizer.info.end_of_text] > 0).all()


def test_the_info_brings_the_same_tokenizer_back(tokenizer: ChatTokenizer) -> None:
    stored = TokenizerInfo(**tokenizer.info.fields())
    again = load_tokenizer(stored)
    assert isinstance(again, ChatTokenizer)
    assert again.info == tokenizer.info
    assert chat_tokenizer(again) is again
    with pytest.raises(InputError, match="recorded as"):
        load_tokenizer(dataclasses.replace(stored, hash="0" * 64))


def test_which_ids_mean_the_same() -> None:
    gpt2, ascii_bytes = get_tokenizer("gpt2").info, get_tokenizer("bytes").info
    chat = chat_tokenizer(get_tokenizer("gpt2")).info
    assert chat.extends(gpt2)
    assert chat.extends(chat)
    assert not gpt2.extends(chat)
    assert not chat.extends(ascii_bytes)
    assert gpt2.extends(gpt2)


def test_characters_of_one_text_are_refused() -> None:
    with pytest.raises(InputError, match="take the tokenizer gpt2 or bytes"):
        chat_tokenizer(CharTokenizer("abc"))


def test_half_a_surrogate_pair_is_refused(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(InputError, match="not valid text"):
        tokenizer.encode_prompt([Message("user", "a\ud800")])


def test_messages_are_read_with_text_or_parts() -> None:
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]
    fields = {"role": "user", "content": parts}
    assert read_message(fields, NAMES, role="role", content="content") == Message("user", "Hi you")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("hello", "not an object"),
        ({"role": "user"}, "no 'content' but role"),
        ({"role": "tool", "content": "x"}, "unknown role 'tool'; known are user, assistant"),
        ({"role": 3, "content": "x"}, "unknown role 3"),
        ({"role": "user", "content": None}, "'content' of a message is null"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "is a list, not a string"),
    ],
)
def test_bad_messages_are_named(fields: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_message(fields, NAMES, role="role", content="content")


def test_targets_are_the_assistants_alone(tokenizer: ChatTokenizer, seed: int) -> None:
    messages = drawn_dialogue(seed)
    ids, is_target = tokenizer.encode_conversation(messages)
    replies = [m for m in messages if m.role == "assistant"]
    expected = [
        i for m in replies for i in [*tokenizer.encode(m.content.strip()), tokenizer.end_of_turn]
    ]
    assert ids[is_target].tolist() == expected
    assert ids.dtype == np.uint32
