"""Text while it is written: whole characters, and nothing of a stop string."""

import random

import pytest

from pygpt.inference.stream import TextStream
from pygpt.tokenizers.base import Tokenizer, get_tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    return get_tokenizer("bytes")


def pushed(stream: TextStream, data: bytes) -> list[str]:
    return [stream.push(byte) for byte in data]


def test_text_that_may_be_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["END"])
    assert pushed(stream, b"aENx") == ["a", "", "", "ENx"]
    assert pushed(stream, b"EEND") == ["", "E", "", ""]
    assert stream.stopped
    assert stream.push(ord("z")) == "" == stream.flush()


def test_held_back_text_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["\n\nUser:"])
    assert pushed(stream, b"a\n\nU") == ["a", "", "", ""]
    assert stream.flush() == "\n\nU"
    assert not stream.stopped


def test_stop_string_across_utf8_bytes(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["é√"])
    out = pushed(stream, "aéb".encode()) + pushed(stream, "é√c".encode())
    assert "".join(out) == "aéb"
    assert stream.stopped


def test_a_stop_string_can_be_half_of_a_character_that_never_ends(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["\ufffd"])
    assert pushed(stream, b"a\xc3") == ["a", ""]
    assert stream.flush() == ""
    assert stream.stopped


@pytest.mark.parametrize("alphabet", ["ab", "aé√🙂"])
def test_the_first_stop_string_ends_the_text(
    alphabet: str, tokenizer: Tokenizer, seed: int
) -> None:
    drawn = random.Random(seed)
    for _ in range(300):
        text, *stop = (
            "".join(drawn.choices(alphabet, k=drawn.randint(1, n))) for n in (30, 4, 3, 3)
        )
        stream = TextStream(tokenizer, stop)
        out = pushed(stream, text.encode())
        expected, ended = text, False
        for end in range(len(text) + 1):  # the stop that is complete first
            starts = [end - len(each) for each in stop if text[:end].endswith(each)]
            if starts:
                expected, ended = text[: min(starts)], True
                break
        assert "".join(out) + stream.flush() == expected, (text, stop)
        assert stream.stopped == ended
