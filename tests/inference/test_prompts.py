"""Prompts from a file: what is read, and what is refused by file and line."""

from pathlib import Path

import pytest

from pygpt import InputError
from pygpt.inference.prompts import read_prompts


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "one\n two \n", ["one", " two "]),
        ("a.txt", "one", ["one"]),
        ("a", "one\r\ntwo\r\n\r\n \n", ["one", "two"]),
        ("a.txt", "\ufeffné\n", ["né"]),
        ("a.txt", "one\u2028line \n", ["one\u2028line "]),
        ("a.txt", '{"prompt": "as it is"}\n', ['{"prompt": "as it is"}']),
        ("a.jsonl", '\ufeff{"prompt": "a\\nb", "id": 7}\n\n{"prompt": ""}', ["a\nb", ""]),
    ],
)
def test_prompts_in_order(name: str, content: str, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read_prompts(path) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt has no prompts"),
        ("a.jsonl", b"\n \n", "a.jsonl has no prompts"),
        ("a.txt", b"one\n \ntwo\n", "a.txt, line 2 is blank"),
        ("a.txt", b"one\nn\xe9\n", "a.txt, line 2 is not UTF-8 .byte 0xe9"),
        ("a.txt", "one\ntwo\n".encode("utf-16"), "a.txt is UTF-16 text.*iconv"),
        ("a.txt", "one\ntwo\n".encode("utf-16-be"), "a.txt is UTF-16 text.*iconv"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": ', "line 3 is not valid JSON .*column 12"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n', 'line 1 has no string "prompt"; a line looks like {'),
        ("a.jsonl", b'{"prompt": null}\n', 'line 1 has no string "prompt"'),
        ("a.jsonl", b'["prompt"]\n', 'line 1 has no string "prompt"'),
        ("a.jsonl", b'{"prompt": "\\ud83d"}\n', "line 1 is not valid text"),
        ("a.json", b'{"prompt": "a"}\n', "not from .json"),
    ],
)
def test_bad_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.txt can't be read: No such file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_prompts(tmp_path)
