"""The corpus of docs/add-a-corpus.md runs as it is printed."""

from __future__ import annotations

import importlib
import re
from email.message import EmailMessage
from pathlib import Path

import pytest

from pygpt.data.inspection import Show
from pygpt.data.manifest import DatasetInfo

PAGE = Path(__file__).parents[2] / "docs" / "add-a-corpus.md"


def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(definition[definition.index("@dataclasses") :].strip().splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    Path("mails").mkdir()
    for i in range(3):
        message = EmailMessage()
        message["Subject"] = "a subject"
        if i < 2:
            message.set_content(f"Text {i}, naïve.\n")
        else:
            message.add_attachment(b"\0", maintype="image", subtype="png")
        Path(f"mails/{i}.eml").write_bytes(bytes(message))
    Path("mails_corpus.py").write_text(definition + use, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("mails_corpus")
    info = DatasetInfo.read(Path("data/mails"))
    assert {name: split.documents for name, split in info.splits.items()} == {"train": 1, "val": 1}
    assert info.details is not None
    assert info.details["dropped"] == {"unreadable": 1}
    shown = Show(Path("data/mails"), split="val").run() + Show(Path("data/mails")).run()
    assert shown == "Text 0, naïve.\nText 1, naïve.\n"
