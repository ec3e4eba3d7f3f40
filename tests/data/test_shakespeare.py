"""Shakespeare: the ids of nanoGPT's shakespeare_char, and the tokenizer chars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pygpt.data import TokenDataset
from pygpt.data.corpora.parts import characters_of
from pygpt.data.corpora.shakespeare import Shakespeare
from pygpt.data.writer import prepare
from pygpt.tokenizers.base import get_tokenizer, load_tokenizer
from pygpt.tokenizers.chars import CharTokenizer
from pygpt.utils.errors import InputError

TEXT = "To be, or not to be: that is the question.\nÉ漢👍!\n" * 20


@pytest.fixture
def corpus(tmp_path: Path) -> Shakespeare:
    path = tmp_path / "input.txt"
    path.write_bytes(TEXT.encode())
    return Shakespeare(path)


def test_chars_gives_nanogpts_ids(tmp_path: Path, corpus: Shakespeare) -> None:
    prepare(corpus, tmp_path / "out", characters_of(corpus))
    # nanoGPT, data/shakespeare_char/prepare.py: sorted characters, the last tenth is val.
    stoi = {character: i for i, character in enumerate(sorted(set(TEXT)))}
    cut = int(len(TEXT) * 0.9)
    for split, text in (("train", TEXT[:cut]), ("val", TEXT[cut:])):
        dataset = TokenDataset(tmp_path / "out", split)
        ids = dataset.window(0, len(dataset))
        assert ids[:-1].tolist() == [stoi[character] for character in text]
        assert ids[-1] == len(stoi) == dataset.tokenizer.end_of_text
        # nanoGPT's reader sees the same.
        raw = np.memmap(tmp_path / "out" / f"{split}.bin", dtype=np.uint16, mode="r")
        np.testing.assert_array_equal(raw, ids)
        tokenizer = load_tokenizer(dataset.tokenizer)
        assert tokenizer.decode(ids[:-1].tolist()) == text
        assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


def test_a_character_outside_the_table_is_named() -> None:
    tokenizer = CharTokenizer("cab")
    assert tokenizer.encode("abc") == [0, 1, 2]
    for text in ("abd", "aB", "z", "a\0"):
        with pytest.raises(InputError, match="is not among the 3"):
            tokenizer.encode(text)
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800")


def test_many_characters_need_uint32(tmp_path: Path) -> None:
    characters = "".join(map(chr, [*range(0x20, 0xD800), *range(0x10000, 0x14000)]))
    (tmp_path / "a.txt").write_text(characters, encoding="utf-8")
    corpus = Shakespeare(tmp_path / "a.txt")
    info = prepare(corpus, tmp_path / "out", characters_of(corpus))
    assert info.dtype == "uint32"
    assert TokenDataset(tmp_path / "out").tokenizer.n_vocab == len(characters) + 1


def test_chars_without_a_text_is_refused() -> None:
    with pytest.raises(InputError, match="is made from a text"):
        get_tokenizer("chars")
    with pytest.raises(InputError, match="is empty"):
        CharTokenizer("")


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read: No such file"):
        Shakespeare(tmp_path / "nowhere").parts()
    path = tmp_path / "x"
    for content, message in ((b"\xff", "not UTF-8"), (b"a", "too short to cut")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            Shakespeare(path).parts()
