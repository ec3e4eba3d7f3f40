"""A preparation that was killed goes on, and its bytes are those of one that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pygpt.data import shards, writer
from pygpt.data.corpora.jsonl import JsonLines
from pygpt.data.corpora.text import TextFiles
from pygpt.data.selection import Limits
from pygpt.data.writer import prepare
from pygpt.utils.errors import InputError
from tests.helpers.corpus import random_text

LIMITS = Limits(shard_tokens=1000, val_tokens=2000, dedup=True, skip_bad=True)


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygpt.data.encoding.BATCH_BYTES", 200)


@pytest.fixture
def files(tmp_path: Path, rng: random.Random) -> tuple[Path, ...]:
    """Files with long, short, repeated and unreadable records."""
    texts = [random_text(rng, rng.choice([1, 3, 40])) for _ in range(150)] + [None]
    paths = []
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.jsonl"
        lines = [json.dumps({"text": text}) for text in rng.choices(texts, k=60)]
        path.write_text("\n".join(lines), encoding="utf-8")
        paths.append(path)
    return tuple(paths)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def run(files: tuple[Path, ...], out: Path, workers: int = 2) -> None:
    prepare(JsonLines(files), out, "bytes", val_fraction=0.3, workers=workers, limits=LIMITS)


def killed(call: Callable[[], None], at: int) -> bool:
    """Run in a forked process that kills itself at the `at`-th write; False if it ended first."""

    def target() -> None:
        left = at
        os.environ["COLUMNS"] = "80"

        def counted(function):  # type: ignore[no-untyped-def]
            def wrapped(*args, **kwargs):  # type: ignore[no-untyped-def]
                nonlocal left
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return wrapped

        for name in ("_append", "_close_shard", "commit"):
            method = getattr(shards.ShardWriter, name)
            setattr(shards.ShardWriter, name, counted(method))
        os.fsync = counted(os.fsync)
        os.replace = counted(os.replace)
        Path.replace = counted(Path.replace)  # type: ignore[method-assign]
        call()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_at_random_moments_the_bytes_are_the_same(
    tmp_path: Path, files: tuple[Path, ...], rng: random.Random
) -> None:
    run(files, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert len(expected) > 5
    kills = 0
    while kills < 20:
        out = tmp_path / f"out-{kills}"
        # A run makes about 250 such calls; several kills in a row must still come to an end.
        while killed(lambda out=out: run(files, out), rng.randrange(1, 200)):  # type: ignore[misc]
            kills += 1
            assert not out.exists()
            assert (tmp_path / f"{out.name}.partial").exists()
        assert contents(out) == expected
        kills += 1


def test_killed_before_the_rename_nothing_is_encoded_again(
    tmp_path: Path, files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(files, tmp_path / "whole")
    (tmp_path / "whole").rename(tmp_path / "out.partial")  # where the last step was not done
    expected = contents(tmp_path / "out.partial")
    with monkeypatch.context() as patched:
        patched.setattr(writer._Preparation, "_write_all", None)
        run(files, tmp_path / "out")
    assert contents(tmp_path / "out") == expected
    (tmp_path / "out").rename(tmp_path / "out.partial")
    prepare(JsonLines(files), tmp_path / "out", "bytes", val_fraction=0.2, limits=LIMITS)
    assert contents(tmp_path / "out") != expected  # of other options: not taken


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_byte(
    tmp_path: Path, files: tuple[Path, ...], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(files, tmp_path / "two")
    monkeypatch.setattr("pygpt.data.encoding.BATCH_BYTES", 1 << 20)
    run(files, tmp_path / "other", workers)
    assert contents(tmp_path / "two") == contents(tmp_path / "other")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_nothing(
    tmp_path: Path,
    files: tuple[Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    number: signal.Signals,
) -> None:
    write_piece, n_writes = shards.ShardWriter.write, 0

    def counted(self: shards.ShardWriter, *piece: object) -> None:
        nonlocal n_writes
        n_writes += 1
        write_piece(self, *piece)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(shards.ShardWriter, "write", counted)
        run(files, tmp_path / "whole")
    left = rng.randrange(1, n_writes // 2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self: shards.ShardWriter, *piece: object) -> None:
        nonlocal left
        write_piece(self, *piece)  # type: ignore[arg-type]
        left -= 1
        if left == 0:
            signal.raise_signal(number)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(shards.ShardWriter, "write", interrupted)
            with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
                run(files, tmp_path / "out")
        assert stopped.type is KeyboardInterrupt or stopped.value.code == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    progress = json.loads((tmp_path / "out.partial" / "progress.json").read_text())
    assert sum(split["documents"] for split in progress["splits"].values()) > 0
    run(files, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_a_full_disk_keeps_what_was_flushed(
    tmp_path: Path, files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(files, tmp_path / "whole")
    append, left = shards.ShardWriter._append, 60

    def full(self: shards.ShardWriter, *piece: object) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise OSError(28, "No space left on device")
        append(self, *piece)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(shards.ShardWriter, "_append", full)
        with pytest.raises(InputError, match=r"No space left .*the same command goes on") as caught:
            run(files, tmp_path / "out")
    progress = json.loads((tmp_path / "out.partial" / "progress.json").read_text())
    n = sum(split["documents"] for split in progress["splits"].values())
    assert f"; {n} documents are kept" in str(caught.value)
    run(files, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_disk_full_before_the_first_record_keeps_nothing(
    tmp_path: Path, files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: shards.ShardWriter, *piece: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shards.ShardWriter, "_append", full)
        with pytest.raises(InputError, match=r"No space left .*; nothing was kept"):
            run(files, tmp_path / "out")
    run(files, tmp_path / "out")


def stopped(files: tuple[Path, ...], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave an unfinished preparation."""

    def no_end(self: writer._Preparation, splits: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writer._Preparation, "_check_splits", no_end)
        with pytest.raises(KeyboardInterrupt):
            run(files, out)


def test_other_options_do_not_go_on(
    tmp_path: Path, files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(files, tmp_path / "out", monkeypatch)
    for change, message in [
        ({"seed": 5}, "seed 0, and now it is 5"),
        ({"val_fraction": 0.2}, "0.3"),
    ]:
        options = {"val_fraction": 0.3, "limits": LIMITS} | change
        with pytest.raises(InputError, match=f"unfinished preparation with .*{message}"):
            prepare(JsonLines(files), tmp_path / "out", "bytes", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unfinished preparation with parts 3, and now it is 2"):
        prepare(JsonLines(files[:2]), tmp_path / "out", "bytes", val_fraction=0.3, limits=LIMITS)


def test_two_processes_on_one_folder(
    tmp_path: Path, files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = []
    write_piece = shards.ShardWriter.write

    def nested(self: shards.ShardWriter, *piece: object) -> None:
        if not messages:
            messages.append("")
            with pytest.raises(InputError) as caught:
                run(files, tmp_path / "out")
            messages[0] = str(caught.value)
        write_piece(self, *piece)  # type: ignore[arg-type]

    monkeypatch.setattr(shards.ShardWriter, "write", nested)
    run(files, tmp_path / "out")
    assert "another process is writing" in messages[0]
    assert (tmp_path / "out" / "dataset.json").exists()


def test_text_in_shards_has_the_ids_of_one_file(tmp_path: Path, rng: random.Random) -> None:
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text(random_text(rng, 30) + "end", encoding="utf-8")
    corpus = TextFiles(tuple(sorted(tmp_path.glob("*.txt"))))
    prepare(corpus, tmp_path / "one", "bytes")
    prepare(corpus, tmp_path / "many", "bytes", limits=Limits(shard_tokens=100))
    for split in ("train", "val"):
        paths = sorted((tmp_path / "many").glob(f"{split}-*.bin"))
        joined = b"".join(path.read_bytes() for path in paths)
        assert joined == (tmp_path / "one" / f"{split}.bin").read_bytes()
