"""The command prepare: its options, its report, and Ctrl-C."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pygpt.data import shards
from pygpt.data.corpora import base as corpora_base
from pygpt.data.corpora.select import select
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.corpora.text import TextFiles
from pygpt.data.inspection import report
from pygpt.data.options import Options
from pygpt.data.writer import prepare
from pygpt.prepare import main
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from tests.helpers.corpus import write


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


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
    assert select(defaults) == Stdlib()
    args = ["--val_fraction", "0.1", "text", "a", "b", "--out", "x"]
    options = cli.parse(Options, prog="prepare", args=args)
    assert select(options) == TextFiles((Path("a"), Path("b")))
    assert (options.val_fraction, options.out) == (0.1, Path("x"))
    with pytest.raises(InputError, match="prepare text a"):
        select(cli.parse(Options, prog="prepare", args=["stdlib", "a"]))
    with pytest.raises(InputError, match="text needs files"):
        select(cli.parse(Options, prog="prepare", args=["text"]))


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


def test_ctrl_c_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"text.txt": "a line of text\n" * 1000})
    monkeypatch.setattr(corpora_base, "BLOCK_BYTES", 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare", "text", "text.txt", "--out", "out"])
    write_piece, written = shards.ShardWriter.write, []

    def interrupted(self: shards.ShardWriter, *piece: Any) -> None:
        write_piece(self, *piece)
        written.append(piece)
        if len(written) == 2:
            assert (tmp_path / "out.partial" / "train.bin.partial").exists()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(shards.ShardWriter, "write", interrupted)
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


def test_verify_show_and_merge_as_commands(tmp_path: Path) -> None:
    write(tmp_path, {"text/a.txt": "a" * 10, "text/b.txt": "b" * 10})
    for out in ("one", "two"):
        done = command("text", "text", "--tokenizer", "bytes", "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = command("merge", "one", "two", "--out", "both", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("verify", "both", cwd=tmp_path)
    assert "train: 2 documents, 22 tokens, 20 bytes" in done.stdout, done.stderr
    done = command("show", "both", "--document", "1", "--split", "val", cwd=tmp_path)
    assert done.stdout.strip() in ("a" * 10, "b" * 10)
    done = command("show", "both", "--document", "2", cwd=tmp_path)
    assert done.returncode == cli.BAD_INPUT
    assert "--document 2 is not in 0 to 1" in done.stderr
    shard = tmp_path / "both" / "train-00001.bin"
    content = shard.read_bytes()
    shard.unlink()  # it is a link to a shard of two/
    shard.write_bytes(content[:-2] + b"z\0")
    done = command("verify", "both", cwd=tmp_path)
    assert done.returncode == cli.BAD_INPUT
    assert "train-00001.bin is not what dataset.json says" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["openwebtex"], "no corpus 'openwebtex': did you mean 'openwebtext'?"),
        (["fineweb"], "give one of --sample 10BT"),
        (["jsonl"], "jsonl needs files"),
        (["verify", "nowhere"], "nowhere has no dataset.json"),
        (["text", "nowhere"], "there is no readable file or folder nowhere"),
        (["jsonl", "nowhere", "--shard-tokens", "0"], "--shard-tokens 0 is not 1 or more"),
        (["jsonl", "nowhere"], "nowhere can't be read: No such file"),
        (["--dedup", "exact"], "--dedup, --min-bytes and --max-bytes choose among records"),
        (["--tokenizer", "gpt3"], "no tokenizer 'gpt3'"),
        (["shakespeare", "--rank", "2"], "--rank 2 is not in 0 to --world 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    args: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare", *args])
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    assert stopped.value.code == cli.BAD_INPUT
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
