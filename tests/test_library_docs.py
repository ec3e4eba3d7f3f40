"""The examples of docs/library.md run, in order, in a folder with a dataset and a run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs" / "library.md"
TINY = (
    "--preset stdlib-cpu --device cpu --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 "
    "--batch-tokens 64 --max-steps 2 --eval-tokens 64 --no-compile"
).split()


def test_examples_run(
    run_train: Callable[..., object],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_train("runs/mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert len(examples) == 7
    for example in examples:
        exec(compile(example, str(DOCS), "exec"), names)  # the page's own code
    assert capsys.readouterr().out
    assert tuple(names["x"].shape) == (4, 16)  # type: ignore[attr-defined]
