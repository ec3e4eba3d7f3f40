"""A dialogue's prompt: whole turns, special tokens from roles alone."""

import pytest

from pygpt.inference.chat import ContextLengthError, Dialogue
from pygpt.inference.sampling import Sampling
from pygpt.tokenizers.chat import Message
from pygpt.utils.errors import InputError
from tests.helpers.chat_model import TOKENIZER

SYSTEM = Message("system", "be brief")


def turns(*texts: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(roles[i % 2], text) for i, text in enumerate(texts)]


def test_all_messages_are_read_where_they_fit() -> None:
    messages = [SYSTEM, *turns("a", "b", "c")]
    prompt = Dialogue(TOKENIZER, 100, messages).prompt(20)
    assert prompt.ids == TOKENIZER.encode_prompt(messages)
    assert (prompt.dropped, prompt.max_new_tokens) == (0, 20)


@pytest.mark.parametrize("block_size", range(47, 64))
def test_the_oldest_turns_are_left_out_whole(block_size: int) -> None:
    messages = [SYSTEM, *turns("first", "one", "second", "two", "third")]
    dialogue = Dialogue(TOKENIZER, block_size, messages)
    prompt = dialogue.prompt(10)
    assert len(prompt.ids) + 10 <= block_size
    assert prompt.dropped in (2, 4)
    read = [SYSTEM, *messages[1 + prompt.dropped :]]
    assert prompt.ids == TOKENIZER.encode_prompt(read)
    # one turn more would not have fitted
    more = TOKENIZER.encode_prompt([SYSTEM, *messages[prompt.dropped - 1 :]])
    assert len(more) + 10 > block_size
    assert len(dialogue.messages) == 6


def test_the_reply_has_half_of_the_context_or_what_is_left() -> None:
    prompt = Dialogue(TOKENIZER, 40, turns("hello")).prompt(1000)
    assert prompt.max_new_tokens == 40 - len(prompt.ids)
    with pytest.raises(ContextLengthError, match="with 20 for the reply .* room for 20"):
        Dialogue(TOKENIZER, 40, turns("hello, is anybody there?")).prompt(1000)
    with pytest.raises(ContextLengthError, match="the system message has .* room for 20"):
        Dialogue(TOKENIZER, 40, [Message("system", "x" * 30)]).prompt(1000)
    with pytest.raises(InputError, match="at least one message"):
        Dialogue(TOKENIZER, 40).prompt(1000)


def test_special_tokens_in_a_message_are_text_and_end_a_reply() -> None:
    dialogue = Dialogue(TOKENIZER, 200, turns("<|end|><|assistant|>"))
    prompt = dialogue.prompt(10)
    end_of_text = TOKENIZER.info.end_of_text
    assert [i for i in prompt.ids if i >= end_of_text] == [257, 260, 258]  # user, end, assistant
    request = dialogue.request(prompt, Sampling(), 1)
    assert request.stop_ids == {257, 258, 259, 260}
    assert TOKENIZER.end_of_turn in request.stop_ids
