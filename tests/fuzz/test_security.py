"""No code from files: neither in what pygpt calls, nor by any reader of a poisoned file."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pygpt import model
from pygpt.config import GPTConfig
from pygpt.hub.model_card import model_card
from pygpt.reporting.build import build
from pygpt.reporting.language import Language
from pygpt.reporting.page.html import render
from pygpt.reporting.page.text import markdown
from pygpt.reporting.runlog import Facts
from pygpt.tokenizers.base import get_tokenizer
from pygpt.utils.errors import InputError
from tests.fuzz.targets import targets

ROOT = Path(model.__file__).parents[1]
SOURCES = sorted([*(ROOT / "pygpt").rglob("*.py"), *(ROOT / "kernels").glob("*.py")])

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "np.load",
    "numpy.load", "np.fromregex", "runpy.run_path", "shutil.unpack_archive",
}  # fmt: skip
METHODS = {"extract", "extractall"}  # of archives, which could write outside their folder


# --- the source -----------------------------------------------------------------------------------


def unsafe_lines(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each import or call that could run code from a file or a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names if _banned(each.name))
        elif isinstance(node, ast.ImportFrom) and _banned(node.module or ""):
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS or name.rpartition(".")[2] in METHODS:
                yield node.lineno, name
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                if keyword.arg in ("trust_remote_code", "shell", "allow_pickle") and (
                    value != "False"
                ):
                    yield node.lineno, f"{keyword.arg}={value}"
                if keyword.arg == "weights_only" and value != "True":
                    yield node.lineno, f"{keyword.arg}={value}"


def _banned(module: str) -> bool:
    return module.partition(".")[0] in MODULES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_code_from_files_is_called(path: Path) -> None:
    assert not list(unsafe_lines(path.read_text(encoding="utf-8")))


def test_the_check_finds_what_it_looks_for() -> None:
    lines = (
        "import pickle", "from yaml import load", "eval(text)", "torch.load(path)",
        "np.load(path)", "archive.extractall(path)", "run(command, shell=True)",
        "from_pretrained(name, trust_remote_code=True)", "load(path, weights_only=False)",
    )  # fmt: skip
    assert [line for line in lines if not list(unsafe_lines(line))] == []


# --- poisoned files -------------------------------------------------------------------------------


class Poison:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._canary),)


def poisons(canary: Path) -> dict[str, bytes]:
    pickled = pickle.dumps(Poison(canary))
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Poison(canary)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(archive, "w") as file:  # as torch.save writes it
        file.writestr("archive/data.pkl", pickled)
        file.writestr("../outside", b"x")
    code = f"__import__('os').mkdir({str(canary)!r})"
    return {
        "pickle": pickled,
        "NumPy object array": array.getvalue(),
        "torch.save": archive.getvalue(),
        "Python": f"x = {code}\n".encode(),
        "Jinja": f"{{{{ cycler.__init__.__globals__.os.mkdir({str(canary)!r}) }}}}\n".encode(),
        "JSON": f'{{"__reduce__": "{code}", "py/reduce": ["{code}"]}}\n'.encode(),
        "YAML": f"!!python/object/apply:os.mkdir ['{canary}']\n".encode(),
    }


def test_the_canary_sings(tmp_path: Path) -> None:
    pickle.loads(poisons(tmp_path / "canary")["pickle"])
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", targets())
def test_a_poisoned_file_runs_no_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target, canary = targets()[name], tmp_path / "canary"
    for number, poison in enumerate(poisons(canary).values()):
        for victim in target.damaged:
            folder = tmp_path / f"{number}"
            for file, content in target.files.items():
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(poison if file == victim else content)
            with contextlib.suppress(InputError):
                target.read(folder)
            assert not canary.exists(), (name, victim)
            assert not (tmp_path / "outside").exists()


# --- text of a run in pages -----------------------------------------------------------------------

HOSTILE = (
    '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    "[a](javascript:alert(1))![b](http://example.org/x.png){{ 7 * 7 }}</style></title>`|\n# heading"
)


class Tags(HTMLParser):
    """Elements, and attributes that run script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.events: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            link = name in ("href", "src", "action", "formaction", "data")
            if name.startswith("on") or (link and "script:" in (value or "").lower()):
                self.events.append((name, value))


def tags_of(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    return found


def log_named(folder: Path, name: str, column: str, corpus: str) -> list[str]:
    """The page and the Markdown of a report on a log whose every text is chosen."""
    folder.mkdir()
    path = folder / f"{name}.csv"
    rows = "".join(f"{step},{9 - step / 30:.3f},1\n" for step in range(60))
    path.write_text(f'step,loss,"{column}"\n{rows}', encoding="utf-8")
    facts = Facts()
    facts.put("corpus", corpus, "--corpus")
    reports = build((path,), facts)
    return [render(reports, Language("en")), markdown(reports, Language("en"))]


def test_a_report_holds_no_markup_of_a_runs_texts(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "∕").replace("\n", " ")[:200]
    plain, _ = log_named(tmp_path / "plain", "run", "column", "text")
    hostile, text = log_named(tmp_path / "hostile", name, HOSTILE.replace('"', ""), HOSTILE)
    found = tags_of(hostile)
    assert found.tags == tags_of(plain).tags
    assert not found.events
    assert "alert(1)" in hostile  # the texts are shown
    assert "49" not in text or "{{ 7 * 7 }}" in text
    text = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text.replace("\\`", ""))  # code
    assert not {"script", "img"} & {*tags_of(text.replace("\\<", "&lt;")).tags}


def test_a_model_card_holds_no_markup_of_a_runs_texts() -> None:
    card = model_card(
        GPTConfig(8, 320, 1, 1, 4),
        get_tokenizer("bytes").info,
        {"data": HOSTILE, HOSTILE: "1"},
        title=HOSTILE,
        format="hf",
        place='x")\nimport os; os.system("true") #',
    )
    assert not tags_of(card).tags
    assert not re.search(r"(?<!\\)\](?=\()", card)  # a link, or an image
    code = card.partition("```python")[2].partition("```")[0]
    assert [type(node).__name__ for node in ast.parse(code).body] == [
        "ImportFrom", "Assign", "Assign"
    ]  # fmt: skip
    assert card.count("\n# ") == 1
