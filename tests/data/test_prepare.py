"""prepare: the text comes back whole, the split is stable, bad input leaves nothing behind."""

import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest

from pygpt.data import writer
from pygpt.data.corpora import base as corpora_base
from pygpt.data.corpora.base import Document, split
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.corpora.text import TextFiles
from pygpt.data.manifest import DatasetInfo
from pygpt.data.writer import prepare
from pygpt.prepare import Options, main, report
from pygpt.tokenizers.base import get_tokenizer
from pygpt.utils import cli
from pygpt.utils.errors import InputError


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def random_text(rng: random.Random, n_lines: int) -> str:
    words = ["def", "naïve", "漢字", "  ", "\t", "x = 1", "…", "👍", "", "it's", "\r"]
    return "\n".join(" ".join(rng.choices(words, k=rng.randrange(9))) for _ in range(n_lines))


def texts(directory: Path, name: str) -> list[str]:
    """Decode a split with nothing but what the directory says, document by document."""
    info = DatasetInfo.read(directory)
    tokenizer = get_tokenizer(info.tokenizer.name)
    split_info = info.splits[name]
    (shard,) = split_info.shards
    content = (directory / shard.file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == shard.sha256
    ids = np.frombuffer(content, dtype=info.dtype)
    assert len(ids) == shard.tokens == split_info.tokens
    ends = np.flatnonzero(ids == info.tokenizer.end_of_text)
    assert len(ends) == split_info.documents
    assert ends[-1] == len(ids) - 1
    documents = [tokenizer.decode(part[:-1]) for part in np.split(ids, ends + 1)[:-1]]
    assert sum(len(text.encode()) for text in documents) == split_info.bytes
    return documents


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes"])
def test_the_standard_library_comes_back_whole(tmp_path: Path, tokenizer: str) -> None:
    info = writer.prepare_stdlib(tmp_path / "data", tokenizer)
    folder = Path(os.__file__).parent
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    sources = []
    for path in folder.rglob("*.py"):
        if path.stat().st_size and not left_out & set(path.relative_to(folder).parts):
            with path.open("rb") as file:
                encoding, _ = tokenize.detect_encoding(file.readline)
            sources.append(path.read_bytes().decode(encoding))
    prepared = texts(tmp_path / "data", "train") + texts(tmp_path / "data", "val")
    assert len(prepared) > 500
    assert sorted(prepared) == sorted(sources)
    assert info == DatasetInfo.read(tmp_path / "data")
    assert 0.01 < info.splits["val"].bytes / sum(s.bytes for s in info.splits.values()) < 0.15


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


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes"])
def test_blocks_and_threads_change_no_id(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    """Large files are encoded in blocks: the ids must be those of the whole text."""
    files: dict[str, str | bytes] = {
        f"{i:02}.txt": random_text(rng, rng.randrange(1, 200)) + "." for i in range(12)
    }
    write(tmp_path / "text", files)
    whole = get_tokenizer(tokenizer)
    expected: dict[str, list[int]] = {"train": [], "val": []}
    documents = TextFiles((tmp_path / "text",)).documents()
    for name, document in split(documents, 0.3, seed=1):
        expected[name] += [*whole.encode(str(files[document.name])), whole.info.end_of_text]
    for block_bytes, workers in [(1 << 20, 2), (13, 1), (100, 3)]:
        monkeypatch.setattr(corpora_base, "BLOCK_BYTES", block_bytes)
        out = tmp_path / f"out-{block_bytes}"
        prepare(
            TextFiles((tmp_path / "text",)),
            out,
            tokenizer,
            val_fraction=0.3,
            seed=1,
            workers=workers,
        )
        for name, ids in expected.items():
            assert np.fromfile(out / f"{name}.bin", dtype="<u2").tolist() == ids


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


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, {f"{i:02}.txt": b"\xff" for i in range(12)})
    with pytest.raises(InputError, match=r"(?s)00\.txt .*09\.txt .*and 2 more"):
        TextFiles((tmp_path,)).documents()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_fraction": 0.0}, "--val-fraction 0.0 "),
        ({"val_fraction": 1.0}, "--val-fraction 1.0 "),
        ({"val_fraction": float("nan")}, "--val-fraction nan "),
        ({"workers": 0}, "--workers 0 "),
        ({"seed": -1}, "seed must be in .*, got -1"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(Stdlib(), tmp_path / "out", "bytes", **change)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


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


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a", "b.txt": "b"}),))
    out = tmp_path / "out"
    out.mkdir()
    prepare(source, out, "bytes")  # an empty folder is fine
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=r"holds a prepared dataset already; take another --out"):
        prepare(source, out, "bytes")
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    for other in (tmp_path / "text", tmp_path / "text" / "a.txt"):
        with pytest.raises(InputError, match="exists and is not an empty folder"):
            prepare(source, other, "bytes")


def test_out_behind_a_link(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a", "b.txt": "b"}),))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    prepare(source, tmp_path / "link", "bytes")
    assert (tmp_path / "real" / "dataset.json").exists()


def test_out_that_cannot_be_made(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path, {"a.txt": "a", "b.txt": "b"}),))
    with pytest.raises(InputError, match=r"can't be written .*Not a directory"):
        prepare(source, tmp_path / "a.txt" / "out", "bytes")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a", "b.txt": "b"}),))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*nothing was kept"):
        prepare(source, tmp_path / "deep" / "out", "bytes")
    assert not any((tmp_path / "deep").iterdir())


def test_ctrl_c_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"text.txt": "a line of text\n" * 1000})
    monkeypatch.setattr(corpora_base, "BLOCK_BYTES", 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare", "text", "text.txt", "--out", "out"])
    write_block, written = writer._SplitWriter.write, []

    def interrupted(self: writer._SplitWriter, block: writer._Encoded) -> None:
        write_block(self, block)
        written.append(block)
        if len(written) == 2:
            assert list(tmp_path.glob("out.partial-*/train.bin"))
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(writer._SplitWriter, "write", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == cli.INTERRUPTED
    assert capsys.readouterr() == ("", "interrupted\n")
    assert len(written) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def command(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pygpt.prepare", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command(tmp_path: Path) -> None:
    write(tmp_path, {"text/a.txt": "a" * 10, "text/b.txt": "b" * 10, "text/c.txt": "c" * 10})
    done = command("text", "text", "--tokenizer", "bytes", "--val_fraction", "0.4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("next: python -m pygpt.train --data data/text-bytes\n")
    assert (tmp_path / "data" / "text-bytes" / "dataset.json").exists()
    again = command("text", "text", "--tokenizer", "bytes", cwd=tmp_path)
    assert again.returncode == cli.BAD_INPUT
    assert again.stderr.startswith("error: data/text-bytes holds a prepared dataset already")
    assert "Traceback" not in again.stderr


def test_unknown_flag(tmp_path: Path) -> None:
    done = command("--tokeniser", "bytes", cwd=tmp_path)
    assert done.returncode == cli.BAD_INPUT
    assert "--tokenizer" in done.stdout + done.stderr
    assert not any(tmp_path.iterdir())


def test_options() -> None:
    defaults = cli.parse(Options, prog="prepare", args=[])
    assert defaults.corpus() == Stdlib()
    args = ["--val_fraction", "0.1", "text", "a", "b", "--out", "x"]
    options = cli.parse(Options, prog="prepare", args=args)
    assert options.corpus() == TextFiles((Path("a"), Path("b")))
    assert (options.val_fraction, options.out) == (0.1, Path("x"))
    with pytest.raises(InputError, match="prepare text a"):
        cli.parse(Options, prog="prepare", args=["stdlib", "a"]).corpus()
    with pytest.raises(InputError, match="text needs files"):
        cli.parse(Options, prog="prepare", args=["text"]).corpus()


def test_report(tmp_path: Path) -> None:
    source = TextFiles((write(tmp_path / "text", {"a.txt": "a" * 1234, "b.txt": "bb"}),))
    info = prepare(source, tmp_path / "out", "bytes")
    lines = report(info, Path("somewhere"), 1.25).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert sorted([rows["train"], rows["val"]]) == [
        ["1", "1,234", "1,235", "1.000"],
        ["1", "2", "3", "1.000"],
    ]
    assert lines[-1] == "next: python -m pygpt.train --data somewhere"
