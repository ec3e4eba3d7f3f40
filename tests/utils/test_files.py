"""Write, then rename: the old content or the new, never a part."""

from pathlib import Path

import pytest

from pygpt.utils.files import PARTIAL, remove_partial, replace_text, replacing


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


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL}a").mkdir()
    (tmp_path / f"{PARTIAL}b").touch()
    (tmp_path / "kept").touch()
    remove_partial(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
