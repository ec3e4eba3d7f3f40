"""Task files from the Hub: the same examples as from local JSON Lines, with the commit recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt.evaluation import task_file
from pygpt.evaluation.tasks import NAMES, get_task
from pygpt.hub.export import export
from pygpt.tokenizers.base import get_tokenizer
from tests.helpers.hub_server import COMMIT, Hub

pytest.importorskip("huggingface_hub", reason="waits for huggingface_hub")
pa = pytest.importorskip("pyarrow", reason="waits for pyarrow")
from pyarrow import parquet  # noqa: E402

# A row as the Hub has it, and the same example as a line of a local file.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lambada": ({"text": "He said to Jo"}, {"context": "He said to", "continuation": "Jo"}),
    "wikitext103": ({"page": " = T = \n \n a b , c"}, {"page": " = T = \n \n a b , c"}),
    "hellaswag": (
        {"activity_label": "Run", "ctx_a": "A man.", "ctx_b": "he", "label": "1",
         "endings": ["is [title] here", "sits"]},
        {"query": "Run: A man. He", "choices": ["is. here", "sits"], "gold": 1},
    ),
    "piqa": (
        {"goal": "open a can", "sol1": "pull", "sol2": "wait", "label": 1},
        {"query": "Question: open a can\n", "choices": ["pull", "wait"], "gold": 1},
    ),
    "arc_easy": (
        {"question": "Which?", "choices": {"text": ["a", "b"], "label": ["1", "2"]},
         "answerKey": "2"},
        {"query": "Question: Which?", "choices": ["a", "b"], "gold": 1},
    ),
    "winogrande": (
        {"sentence": "Sam saw Pat so _ ran away.", "option1": "Sam", "option2": "Pat",
         "answer": "2"},
        {"context_options": ["Sam saw Pat so Sam", "Sam saw Pat so Pat"],
         "continuation": "ran away.", "gold": 1},
    ),
    "copa": (
        {"premise": "It rained.", "question": "effect", "choice1": "It Is wet.",
         "choice2": "Sun shone.", "label": 0},
        {"query": "It rained therefore", "choices": ["it Is wet.", "sun shone."], "gold": 0},
    ),
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    root = tmp_path / "hub"
    for name, (row, _) in ROWS.items():
        hub_file = get_task(name).hub
        path = root / "datasets" / hub_file.repository / hub_file.path
        path.parent.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist([row]), path)
    with Hub.serving(root) as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_the_same_example(tmp_path: Path, name: str) -> None:
    task, (row, line) = get_task(name), ROWS[name]
    for folder, fields in (("hub", row), ("local", line)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / task.files[0]).write_text(json.dumps(fields))
    theirs, ours = (task_file.load(task, tmp_path / folder)[0] for folder in ("hub", "local"))
    assert theirs == ours


def run(models: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a new process: huggingface_hub reads its environment when imported."""
    command = [sys.executable, "-m", "pygpt.eval", str(models), "--json", *flags]
    variables = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def test_what_is_not_in_the_directory_is_fetched(hub: Hub, tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(64, 257, n_layer=1, n_head=1, n_embd=8), "eager")
    export(model, get_tokenizer("bytes"), tmp_path / "m", format="hf", dtype="float32", card="")
    local = tmp_path / "tasks"
    local.mkdir()
    (local / "copa.jsonl").write_text(json.dumps(ROWS["copa"][1]))
    flags = ("--tasks", ",".join(NAMES), "--task-data", str(local))
    environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache")}

    done = run(tmp_path / "m", *flags, **environment)
    assert done.returncode == 0, done.stderr
    (results,) = json.loads(done.stdout).values()
    assert results["copa"]["source"] == str(local / "copa.jsonl")
    for name in set(NAMES) - {"copa"}:
        hub_file = get_task(name).hub
        assert results[name]["source"] == f"{hub_file.repository}@{COMMIT}/{hub_file.path}"
        assert results[name]["examples"] == 1
    assert len(hub.sent) == len(NAMES) - 1

    refused = run(
        tmp_path / "m", "--tasks", "piqa", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty")
    )
    assert refused.returncode == 2
    assert "no piqa.jsonl in data/tasks, and from the Hub: no network, or offline" in refused.stderr
    assert "baber/piqa default/validation/0000.parquet`, copy that file to" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "piqa.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"piqa.parquet is not a whole parquet file"):
        task_file.load(get_task("piqa"), tmp_path)
    parquet.write_table(pa.Table.from_pylist([{"goal": "x"}]), tmp_path / "piqa.parquet")
    with pytest.raises(InputError, match=r"piqa.parquet, row 1 is of another form \(KeyError"):
        task_file.load(get_task("piqa"), tmp_path)
