"""Streamed text: whole characters, and nothing of a stop string."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


class Pieces(Tokenizer):
    """A vocabulary of any pieces of bytes."""

    def encode_array(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        raise NotImplementedError


def up_to_stop(text: str, stop: list[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first, and whether there is one."""
    for end in range(len(text) + 1):
        starts = [end - len(each) for each in stop if text[:end].endswith(each)]
        if starts:
            return text[: min(starts)], True
    return text, False


@st.composite
def texts_and_stops(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """Bytes, also such as are not UTF-8, and stop strings of which many overlap in the text."""
    alphabet = draw(st.sampled_from(["ab", "aé", "ab\né√🙂\u0301\ufffd"]))
    text = draw(st.text(alphabet, max_size=30)).encode()
    cut = draw(st.integers(0, 3))  # inside of the last character, perhaps
    encoded = draw(st.sampled_from([text, text[: len(text) - cut], draw(st.binary(max_size=30))]))
    return encoded, draw(st.lists(st.text(alphabet, min_size=1, max_size=4), max_size=4))


@given(drawn=texts_and_stops(), cuts=st.sets(st.integers(1, 40)))
@settings(max_examples=500, deadline=None)
def test_a_stop_string_is_found_however_the_tokens_fall(
    drawn: tuple[bytes, list[str]], cuts: set[int]
) -> None:
    encoded, stop = drawn
    edges = [0, *sorted(cut for cut in cuts if cut < len(encoded)), len(encoded)]
    pieces = [encoded[start:end] for start, end in itertools.pairwise(edges)]
    stream = TextStream(Pieces("pieces", pieces), stop)
    text = "".join(map(stream.push, range(len(pieces)))) + stream.flush()
    assert (text, stream.stopped) == up_to_stop(encoded.decode(errors="replace"), stop)
