"""gigatoken gives the ids of tiktoken, whatever the text."""

from __future__ import annotations

import logging
import random
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pygpt.tokenizers.gpt2 import GPT2Tokenizer

pytest.importorskip("gigatoken", reason="waits for gigatoken: pip install gigatoken")

TOKENIZER = GPT2Tokenizer()
at_leisure = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(texts: list[str]) -> None:
    rows = TOKENIZER.encode_batch([text.encode() for text in texts])
    assert len(rows.offsets) == len(texts) + 1
    for text, start, stop in zip(texts, rows.offsets, rows.offsets[1:], strict=False):
        expected = TOKENIZER.encode_array(text)
        np.testing.assert_array_equal(rows.ids[start:stop], expected, err_msg=repr(text)[:300])


def test_gigatoken_is_the_encoder() -> None:
    assert TOKENIZER._gigatoken is not None


@settings(at_leisure, max_examples=500)
@given(
    text=st.text(
        st.sampled_from(
            "\n\n \t\r\x0b\x1c\x85\u2028\u3000'dlstmrveDLSTMRVE09½.=<|_aZéßΩя漢́👍\ufeff\0"
        )
        | st.characters(codec="utf-8"),
        max_size=80,
    )
)
def test_fuzzed_text(text: str) -> None:
    check([text])


def test_every_character_in_several_surroundings() -> None:
    """Each code point alone, between letters, digits, spaces and itself, all of Unicode."""
    codes = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assigned = [c for c in map(chr, codes) if unicodedata.category(c) not in ("Cn", "Co")]
    check(
        [
            " ".join(f"{c}a{c}{c} {c}1{c}.{c}" for c in assigned[i : i + 512])
            for i in range(0, len(assigned), 512)
        ]
    )
    unassigned = sorted(set(map(chr, codes)) - set(assigned))
    check(["".join(unassigned[i : i + 4096]) for i in range(0, len(unassigned), 4096)])


def test_runs_of_one_character(seed: int) -> None:
    rng = random.Random(seed)
    characters = " \n\t\r\u3000\xa0a0.-=_é漢👍'\0"
    check([c * n for c in characters for n in (*range(1, 40), 1000, rng.randrange(2000, 5000))])
    check([a * 9 + b * n + a for a in " \n\t" for b in characters for n in range(5)])


@pytest.mark.parametrize("unit", ["a", "xyzzy", "é漢", "0", "👩‍👩‍👧‍👦🏽"])
def test_words_without_a_space(unit: str) -> None:
    check([unit * (100_000 // len(unit.encode()))])


def test_emoji_sequences(seed: int) -> None:
    parts = ["👩", "\u200d", "👧", "🏽", "\ufe0f", "🇩", "🇪", "#", "\u20e3", "❤", " ", "\U000e0067"]
    rng = random.Random(seed)
    check(["".join(rng.choices(parts, k=rng.randrange(1, 30))) for _ in range(500)])


def test_end_of_text_in_the_text_is_text(seed: int) -> None:
    rng = random.Random(seed)
    parts = ["<|endoftext|>", "<|", "endoftext", "|>", " ", "a", "\n", "<|endoftext|> "]
    texts = ["".join(rng.choices(parts, k=rng.randrange(1, 9))) for _ in range(500)]
    check(texts)
    assert 50256 not in TOKENIZER.encode_batch([text.encode() for text in texts]).ids


def test_threads_get_the_ids_of_their_own_texts(seed: int) -> None:
    rng = random.Random(seed)
    batches = [[str(rng.getrandbits(64)).encode() for _ in range(300)] for _ in range(40)]
    expected = [TOKENIZER.encode_batch(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for rows, wanted in zip(pool.map(TOKENIZER.encode_batch, batches), expected, strict=True):
            np.testing.assert_array_equal(rows.ids, wanted.ids)
            np.testing.assert_array_equal(rows.offsets, wanted.offsets)


def test_without_gigatoken_tiktoken_encodes_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with caplog.at_level(logging.WARNING):
        ids, offsets = GPT2Tokenizer().encode_batch([b"hello world", b"", b"hello"])
    assert ids.tolist() == [31373, 995, 31373]
    assert offsets.tolist() == [0, 2, 2, 3]
    assert "encoding with tiktoken, which is slower" in caplog.text
    assert "pip install gigatoken" in caplog.text
