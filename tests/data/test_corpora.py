"""Corpora: which files are read, how documents are split, and what is refused."""

import logging
import random
import subprocess
from pathlib import Path

import pytest

from pygpt.data.corpora import base as corpora_base
from pygpt.data.corpora.base import Document, split
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.corpora.text import TextFiles
from pygpt.data.writer import prepare
from pygpt.utils.errors import InputError
from tests.helpers.corpus import random_text, texts, write


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


def test_stdlib_leaves_tests_and_packages_out(tmp_path: Path) -> None:
    kept: dict[str, str | bytes] = {
        "a.py": "a",
        "b/c.py": "c",
        "latin.py": b"# coding: latin-1\n'\xe9'",
    }
    left_out = {
        "test/t.py": "t",
        "b/tests/t.py": "t",
        "idlelib/idle_test/t.py": "t",
        "site-packages/p.py": "p",
        "LICENSE.txt": "text",
    }
    documents = Stdlib(write(tmp_path, {**kept, **left_out})).documents()
    assert [document.name for document in documents] == ["a.py", "b/c.py", "latin.py"]
    assert "".join(documents[2].blocks()) == "# coding: latin-1\n'é'"
    assert documents[2].n_bytes == len("# coding: latin-1\n'é'".encode())


def test_text_finds_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(
        tmp_path / "folder",
        {
            "b.txt": "b",
            "sub/a.md": "a\r\n",
            ".hidden": "h",
            ".git/config": "h",
            "image.png": b"\x89PNG\0",
            "empty.txt": "",
        },
    )
    (folder / "broken").symlink_to(folder / "nowhere")
    (folder / "round").symlink_to(folder)
    single = write(tmp_path, {".notes": "n"}) / ".notes"
    with caplog.at_level(logging.INFO):
        documents = TextFiles((folder, single, folder / "b.txt")).documents()
    assert sorted(document.name for document in documents) == [
        ".notes",
        "folder/b.txt",
        "folder/sub/a.md",
    ]
    assert ["".join(document.blocks()) for document in documents] == ["n", "b", "a\r\n"]
    assert "hidden, a link to a folder, or no regular file: 4 (" in caplog.text
    assert "(.git, .hidden, broken, round)" in caplog.text
    assert "binary: 1 (folder/image.png)" in caplog.text
    assert "empty: 1 (folder/empty.txt)" in caplog.text


def test_files_of_one_name_are_split_one_by_one(tmp_path: Path) -> None:
    files = {f"{i}/README.md": "text" for i in range(200)}
    folder = write(tmp_path, files)
    documents = TextFiles(tuple(folder / name for name in files)).documents()
    assert sorted(document.name for document in documents) == sorted(files)


def documents_named(names: list[str]) -> list[Document]:
    return [Document(Path(name), name, n_bytes=1) for name in names]


def test_split_is_stable_when_files_are_added(rng: random.Random) -> None:
    names = [f"{rng.random()}.txt" for _ in range(2000)]
    seed = rng.randrange(2**64)
    before = {d.name: side for side, d in split(documents_named(names[:1000]), 0.1, seed)}
    after = {d.name: side for side, d in split(documents_named(names), 0.1, seed)}
    assert before.items() <= after.items()
    # Binomial: 200 of 2000 with a standard deviation of 13.4; 6 of them fail once in 5e8 runs.
    assert abs(sum(side == "val" for side in after.values()) - 200) < 81
    assert after != {d.name: side for side, d in split(documents_named(names), 0.1, seed + 1)}


@pytest.mark.parametrize("val_fraction", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("names", [["a", "b"], ["a", "a"], ["a", "b", "c"]])
def test_neither_split_is_empty(names: list[str], val_fraction: float) -> None:
    sides = [side for side, _ in split(documents_named(names), val_fraction, seed=0)]
    assert set(sides) == {"train", "val"}


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, {f"{i:02}.txt": b"\xff" for i in range(12)})
    with pytest.raises(InputError, match=r"(?s)00\.txt .*09\.txt .*and 2 more"):
        TextFiles((tmp_path,)).documents()


def test_nothing_to_prepare(tmp_path: Path) -> None:
    write(tmp_path, {"empty.txt": "", "folder/empty.txt": ""})
    for path, message in [
        (tmp_path / "nowhere", "no readable file or folder .*nowhere"),
        (tmp_path / "folder", "no text in .*folder"),
        (tmp_path / "empty.txt", r"no text in .*empty\.txt"),
    ]:
        with pytest.raises(InputError, match=message):
            TextFiles((path,)).documents()
    with pytest.raises(InputError, match="no text in"):
        Stdlib(tmp_path).documents()


@pytest.mark.parametrize("val_fraction", [0.001, 0.05, 0.5, 0.99])
def test_a_single_document_is_cut(
    tmp_path: Path, val_fraction: float, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    text = random_text(rng, 300) + "the end"
    path = write(tmp_path, {"all.txt": text}) / "all.txt"
    with caplog.at_level(logging.INFO):
        info = prepare(TextFiles((path,)), tmp_path / "out", "bytes", val_fraction=val_fraction)
    (train,), (val,) = texts(tmp_path / "out", "train"), texts(tmp_path / "out", "val")
    assert train + val == text
    wanted = len(text.encode()) * val_fraction
    assert wanted - 1 <= info.splits["val"].bytes <= 2 * wanted + 4  # 4: one character
    assert "is the only document" in caplog.text


@pytest.mark.parametrize("text", ["ab", "漢字", "é👍", "a\n", "\n\n\n"])
def test_a_short_document_is_cut_between_characters(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, {"short.txt": text}) / "short.txt"
    prepare(TextFiles((path,)), tmp_path / "out", "bytes")
    assert texts(tmp_path / "out", "train") + texts(tmp_path / "out", "val") == [
        text[:1] if len(text) == 2 else text[:-1],
        text[-1:],
    ]


@pytest.mark.parametrize("text", ["a", "漢"])
def test_a_document_too_short_to_cut(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, {"one.txt": text}) / "one.txt"
    with pytest.raises(InputError, match="too short"):
        prepare(TextFiles((path,)), tmp_path / "out", "bytes")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "offset", "reason"),
    [
        (b"ab\xff", 2, "invalid start byte"),
        ("é".encode() * 40 + b"\xc3(", 80, "invalid continuation byte"),
        (b"a" * 63 + b"\xe6\xbc", 63, "unexpected end of data"),
        (b"a" * 63 + b"\xe6\xbc" + b"a" * 70, 63, "invalid continuation byte"),
        (b"abc\0", 3, "NUL"),
    ],
)
def test_encoding_problems_are_named(
    tmp_path: Path, content: bytes, offset: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora_base, "BLOCK_BYTES", 64)  # some of these straddle two chunks
    write(tmp_path, {"good.txt": "good", "bad.txt": content})
    out = tmp_path / "out"
    with pytest.raises(InputError, match=rf"bad\.txt .*\b{offset}\b") as caught:
        prepare(TextFiles((tmp_path / "bad.txt", tmp_path / "good.txt")), out, "bytes")
    assert reason in str(caught.value)
    assert not out.exists()


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    files: dict[str, str | bytes] = {"a.txt": bom + b"first", "b.txt": b"second", "c.txt": bom}
    write(tmp_path / "text", files)
    prepare(TextFiles((tmp_path / "text",)), tmp_path / "out", "bytes")
    assert sorted(texts(tmp_path / "out", "train") + texts(tmp_path / "out", "val")) == [
        "first",
        "second",
    ]
    write(tmp_path / "one", {"a.txt": bom + "é\nline\nlast".encode()})
    info = prepare(TextFiles((tmp_path / "one",)), tmp_path / "cut", "bytes", val_fraction=0.3)
    (train,), (val,) = texts(tmp_path / "cut", "train"), texts(tmp_path / "cut", "val")
    assert (train, val) == ("é\nline\n", "last")
    assert sum(split.bytes for split in info.splits.values()) == len("é\nline\nlast".encode())


@pytest.mark.parametrize("bom", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf16_is_named_with_the_command_that_converts_it(
    tmp_path: Path, encoding: str, bom: bool
) -> None:
    text = "First line, naïve…\nsecond line\n" * 3
    content = (("\ufeff" if bom else "") + text).encode(encoding)
    folder = write(tmp_path / "text", {"windows.txt": content})
    for path in (folder, folder / "windows.txt"):  # not left out as binary in a folder either
        with pytest.raises(InputError, match=r"windows.txt is UTF-(16|32) text") as caught:
            TextFiles((path,)).documents()
    command = str(caught.value).split("UTF-8: ", 1)[1].replace("FILE", "out.txt")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == text


def test_binary_files_are_not_taken_for_utf16(tmp_path: Path, rng: random.Random) -> None:
    contents = [b"\xff\xfe" + rng.randbytes(5000), bytes(5000), b"\xff\xfb\x90\x00" * 100]
    folder = write(tmp_path, {f"{i}.bin": content for i, content in enumerate(contents)})
    write(folder, {"a.txt": "text"})
    assert [document.name for document in TextFiles((folder,)).documents()] == ["a.txt"]
