"""`prepare chat`: dialogues to ids and a loss mask, and the files that can't be used."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygpt import InputError
from pygpt.data import TokenDataset
from pygpt.data.dialogue_writer import PrepareChat
from pygpt.data.inspection import Show, Verify
from pygpt.data.manifest import DatasetInfo
from pygpt.data.ready import Merge
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.chat import Message
from pygpt.utils import cli

GOOD = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
BYTES = chat_tokenizer(get_tokenizer("bytes"))


def write(path: Path, *records: Any) -> Path:
    """JSON lines; a str is written as it is."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbered(n: int) -> list[dict[str, Any]]:
    return [{"messages": [*GOOD, {"role": "assistant", "content": f"{i}"}]} for i in range(n)]


def prepare(out: Path, *files: Path, **options: Any) -> DatasetInfo:
    PrepareChat(files, out, **{"tokenizer": "bytes", **options}).run()
    return DatasetInfo.read(out)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """The error for a file whose third line, or whole content, is the record."""

    def attempt(record: Any, **options: Any) -> str:
        path = write(tmp_path / "x.jsonl", *numbered(2), record)
        with pytest.raises(InputError) as caught:
            prepare(tmp_path / "out", path, **options)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.partial").exists()
        return str(caught.value)

    return attempt


def test_ids_and_mask_are_the_template(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *numbered(40))
    info = prepare(tmp_path / "out", path, val_fraction=0.3)
    assert info.tokenizer == BYTES.info
    counts = {name: split.documents for name, split in info.splits.items()}
    assert sum(counts.values()) == 40
    assert 1 < counts["val"] < 25  # 12 expected
    found = []
    for name, count in counts.items():
        split = TokenDataset(tmp_path / "out", name)
        assert split.loss_mask is not None
        ids = split.window(0, len(split))
        written = BYTES.decode(ids[split.loss_mask.astype(bool)].tolist())
        found += written.split("<|end|>")[1:-1:2]
        assert written.count("Hello there<|end|>") == count
    assert sorted(map(int, found)) == list(range(40))


def test_every_form_gives_the_same_dialogues(tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt"}
    records = numbered(5)
    sharegpt = [
        {
            "id": "x",
            "conversations": [
                {"from": names[m["role"]], "value": m["content"]} for m in record["messages"]
            ],
        }
        for record in records
    ]
    lines = write(tmp_path / "lines.jsonl", *records)
    shared = write(tmp_path / "shared.jsonl", *sharegpt)
    array = tmp_path / "array.json"
    array.write_text("\ufeff" + json.dumps(sharegpt, indent=1), encoding="utf-8")
    packed = tmp_path / "lines.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    infos = [
        prepare(tmp_path / f"out{at}", path)
        for at, path in enumerate((lines, shared, array, packed))
    ]
    assert all(info.splits == infos[0].splits for info in infos)


def test_turns_behind_the_last_reply_and_empty_system_messages_are_left_out(tmp_path: Path) -> None:
    around = [{"role": "system", "content": " "}, *GOOD, {"role": "user", "content": "Bye"}]
    plain = prepare(tmp_path / "a", write(tmp_path / "a.jsonl", *[{"messages": GOOD}] * 2))
    more = prepare(tmp_path / "b", write(tmp_path / "b.jsonl", *[{"messages": around}] * 2))
    assert plain.splits == more.splits


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"messages": [', "x.jsonl, line 3: not UTF-8 JSON"),
        ("[1]", "x.jsonl, line 3: not a JSON object"),
        ({"text": "x"}, "line 3: neither 'messages' nor 'conversations', but text"),
        ({"messages": "x"}, "line 3: 'messages' is not a list"),
        ({"messages": ["x"]}, "line 3: a message is not an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "line 3: unknown role 'tool'; known"),
        ({"conversations": [{"from": "judge", "value": "x"}]}, "line 3: unknown role 'judge'"),
        ({"messages": [{"role": "user"}]}, "line 3: a message has no 'content'"),
        ({"messages": [{"role": "user", "content": None}]}, "line 3: 'content' of a message is"),
        ({"messages": [*GOOD, {"role": "user", "content": " "}]}, "message 3, of the user, is emp"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "has half a surrogate pair"),
    ],
)
def test_bad_dialogues_are_named_by_file_and_line(
    refused: Callable[..., str], record: Any, message: str, tmp_path: Path
) -> None:
    text = refused(record)
    assert message in text
    assert "--skip-bad" in text
    info = prepare(tmp_path / "out", tmp_path / "x.jsonl", skip_bad=True)
    assert sum(split.documents for split in info.splits.values()) == 2
    assert (info.details or {})["dropped"] == {"unreadable": 1}


def test_dialogues_without_a_reply_are_counted(tmp_path: Path) -> None:
    silent = {"messages": [{"role": "user", "content": "Anybody?"}]}
    path = write(tmp_path / "x.jsonl", *numbered(3), silent, {"messages": []})
    out = tmp_path / "out"
    text = PrepareChat((path,), out, tokenizer="bytes").run()
    assert "dropped, without a reply of the assistant: 2" in text
    assert "next: python -m pygpt.train --preset chat --init-from gpt2 --data" in text


def test_what_is_left_must_fill_both_splits(refused: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", *numbered(1), {"messages": []})
    with pytest.raises(InputError, match=r"split train \(dialogues written: 1, 1 without a reply"):
        prepare(tmp_path / "out", path)


def test_wrong_options(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *numbered(3))
    with pytest.raises(InputError, match="chat needs files"):
        prepare(tmp_path / "out")
    with pytest.raises(InputError, match="none.jsonl can't be read"):
        prepare(tmp_path / "out", tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="val_fraction must be between 0 and 1, got 1"):
        prepare(tmp_path / "out", path, val_fraction=1.0)
    with pytest.raises(InputError, match="made from a text"):
        prepare(tmp_path / "out", path, tokenizer="chars")
    prepare(tmp_path / "out", path)
    with pytest.raises(InputError, match="exists; take another --out"):
        prepare(tmp_path / "out", path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(write(tmp_path / "x.jsonl", *numbered(50)).read_bytes())
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cut.jsonl.gz is damaged or cut off"):
        prepare(tmp_path / "out", cut)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from pygpt import prepare as command

    path = write(tmp_path / "x.jsonl", *numbered(30))
    words = f"prepare chat {path} --out {tmp_path / 'out'} --tokenizer bytes"
    monkeypatch.setattr("sys.argv", words.split())
    command.main()
    assert "targets, written by the assistant" in capsys.readouterr().out


def test_verify_and_show_know_dialogues(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out, write(tmp_path / "x.jsonl", *numbered(30)))
    assert "targets (" in Verify(out).run()
    expected = BYTES.encode_conversation([Message(**m) for m in numbered(1)[0]["messages"]])
    shown = Show(out, document=0, split="val").run()
    assert shown + "<|endoftext|>" == BYTES.decode(expected.ids.tolist())


@pytest.mark.parametrize("damage", ["value", "length", "changed", "missing", "no target"])
def test_a_damaged_mask_is_refused(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    prepare(out, write(tmp_path / "x.jsonl", *numbered(30)))
    mask = out / "mask-train.bin"
    content = bytearray(mask.read_bytes())
    if damage == "missing":
        mask.unlink()
    else:
        if damage == "value":
            content[5] = 2
        elif damage == "length":
            content.pop()
        elif damage == "no target":
            content = bytearray(len(content))
        else:
            content[5] ^= 1
        mask.write_bytes(content)
    with pytest.raises(InputError, match="mask"):
        TokenDataset(out, "train")
    with pytest.raises(InputError, match="mask"):
        Verify(out).run()


def test_merged_dialogues_keep_their_masks(tmp_path: Path) -> None:
    for name, n in (("a", 20), ("b", 30)):
        prepare(tmp_path / name, write(tmp_path / f"{name}.jsonl", *numbered(n)))
    Merge((tmp_path / "a", tmp_path / "b"), tmp_path / "both").run()
    parts = [TokenDataset(tmp_path / name, "train") for name in "ab"]
    both = TokenDataset(tmp_path / "both", "train")
    masks = [part.loss_mask for part in parts if part.loss_mask is not None]
    assert np.array_equal(both.loss_mask, np.concatenate(masks))
    assert "targets (" in Verify(tmp_path / "both").run()


def test_help_has_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(PrepareChat, prog="x", args=["--help"])
    assert "--skip-bad" in capsys.readouterr().out
