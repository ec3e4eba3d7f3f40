"""Write, then rename: the old content or the new, never a part."""

import threading
from pathlib import Path

import pytest

from pygpt.utils import files
from pygpt.utils.errors import InputError
from pygpt.utils.files import (
    PARTIAL,
    directory_beside,
    locked,
    remove_partial,
    replace_text,
    replacing,
)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")
    replace_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path) as partial:
        (partial / "in a directory that is not there").write_text("half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    for name in ("a", "b"):
        with replacing(path) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / name).touch()
    assert [each.name for each in path.rglob("*") if each.is_file()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_is_not_flushed_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flush = tmp_path / "step-1", files.sync

    def fail(each: Path) -> None:
        if each == tmp_path:
            raise OSError(5, "Input/output error")
        flush(each)

    path.mkdir()
    (path / "old").touch()
    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(OSError, match="Input/output"), replacing(path) as partial:
        partial.mkdir()
    assert [each.relative_to(tmp_path) for each in tmp_path.rglob("*")] == [
        Path("step-1"),
        Path("step-1/old"),
    ]
    with (
        pytest.raises(OSError, match="Input/output"),
        directory_beside(tmp_path / "out", keep=True),
    ):
        pass
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.partial", "step-1"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL}a").mkdir()
    (tmp_path / f"{PARTIAL}b").touch()
    (tmp_path / "kept").touch()
    remove_partial(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_only_the_named_files_are_removed(tmp_path: Path) -> None:
    for name in ("report.json-12345678", "report.html-12345678", "config.toml-12345678"):
        (tmp_path / f"{PARTIAL}{name}").touch()
    remove_partial(tmp_path, "report.json", "report.html")
    assert [each.name for each in tmp_path.iterdir()] == [f"{PARTIAL}config.toml-12345678"]


def test_a_new_directory_has_nothing_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "old").touch()
    with directory_beside(tmp_path / "out", keep=True) as partial:
        assert (partial / "old").exists()
        partial.rename(tmp_path / "kept")
        (tmp_path / "kept").rename(partial)
    (tmp_path / "out").rename(tmp_path / "out.partial")
    with directory_beside(tmp_path / "out", keep=False) as partial:
        (partial / "new").touch()
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_two_processes_do_not_write_one_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with (
        directory_beside(out, keep=False),
        pytest.raises(InputError, match="another process is writing"),
        directory_beside(out, keep=False),
    ):
        pass
    # The other one ends between our look at the directory and our lock on it.
    monkeypatch.setattr("fcntl.flock", lambda *_: (tmp_path / "late.partial").rename(out / "other"))
    with (
        pytest.raises(InputError, match="another process has just written"),
        directory_beside(tmp_path / "late", keep=False),
    ):
        pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
