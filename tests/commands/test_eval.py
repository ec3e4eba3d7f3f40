"""The eval command with several models and with tasks: one table, three forms."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt import eval as eval_command
from pygpt.data import writer
from pygpt.data.corpora.text import TextFiles
from pygpt.hub.export import export
from pygpt.tokenizers.base import get_tokenizer


@pytest.fixture
def models(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model of bytes and one of GPT-2's tokens, as directories."""
    torch.manual_seed(seed)
    monkeypatch.chdir(tmp_path)
    for name in ("bytes", "gpt2"):
        tokenizer = get_tokenizer(name)
        model = GPT(GPTConfig(32, tokenizer.info.n_vocab, n_layer=1, n_head=1, n_embd=16), "eager")
        export(model, tokenizer, Path(f"{name}-model"), format="hf", dtype="float32", card="")
    return ["bytes-model", "gpt2-model"]


@pytest.fixture
def task_data(tmp_path: Path) -> str:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "copa.jsonl").write_text(
        '{"query": "It, so", "choices": ["a b", "c"], "gold": 0}\n' * 3
    )
    (folder / "lambada.jsonl").write_text('{"context": "a b", "continuation": "c"}\n' * 3)
    return str(folder)


def run_eval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["eval", *flags])
    eval_command.main()
    return capsys.readouterr().out


def test_tasks_side_by_side(
    models: list[str],
    task_data: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [models[0], "--compare", models[1], "--tasks", "copa,lambada", "--task-data", task_data]
    fields = json.loads(run_eval(monkeypatch, capsys, *flags, "--json"))
    assert list(fields) == models
    for found in fields.values():
        assert list(found) == ["copa", "lambada", "lambada_last_token"]
        for task in found.values():
            assert {"accuracy", "perplexity", "stderr", "protocol", "examples"} <= set(task)
            assert task["examples"] == 3
    table = run_eval(monkeypatch, capsys, *flags, "--examples", "2")
    assert len([line for line in table.splitlines() if line.startswith("copa  ")]) == 2
    markdown = run_eval(monkeypatch, capsys, *flags, "--markdown")
    assert markdown.startswith("| task ")


def test_a_split_side_by_side_is_the_same_text_for_every_tokenizer(
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A short text, said again and again. " * 20)
    writer.prepare(TextFiles((text,)), tmp_path / "data", "gpt2", val_fraction=0.5)
    out = run_eval(monkeypatch, capsys, *models, "--data", str(tmp_path / "data"), "--json")
    fields = json.loads(out)
    # A fresh model knows nothing: log2 of its ids for each id, spread over the bytes.
    bits = {name: fields[name]["val"]["bits_per_byte"] for name in models}
    assert bits["bytes-model"] == pytest.approx(8, abs=0.3)
    assert 0 < bits["gpt2-model"] < bits["bytes-model"]
    assert fields["bytes-model"]["val"]["perplexity"] == pytest.approx(257, rel=0.1)


def test_bad_input_is_refused_before_anything_is_loaded(
    models: list[str], task_data: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for fields, message in (
        ({"tasks": "lambda"}, "no task 'lambda'.*lambada"),
        ({"tasks": "copa", "task_data": Path("nowhere")}, "nowhere is not a directory"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"tasks": "copa", "stride": 4}, "stride is for one model and no task"),
        ({"compare": ("gpt2",), "block_size": 4}, "block_size is for one model and no task"),
        ({"tasks": "copa", "tokens": 4}, "with tasks none is read"),
        ({"json": True, "markdown": True}, "give one of them"),
    ):
        with pytest.raises(InputError, match=message):
            eval_command.EvalConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no model 'gtp2'"):
        run_eval(monkeypatch, capsys, models[0], "--compare", "gtp2")


def test_a_model_of_another_architecture_is_run_by_transformers(
    models: list[str], task_data: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import shutil

    import transformers

    config = transformers.GPTNeoXConfig(
        vocab_size=50257, hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.GPTNeoXForCausalLM(config).save_pretrained("neox")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(models[1]) / file, "neox")
    flags = ["--tasks", "copa", "--task-data", task_data, "--json"]
    fields = json.loads(run_eval(monkeypatch, capsys, models[0], "--compare", "neox", *flags))
    assert fields["neox"]["copa"]["examples"] == 3
    with pytest.raises(InputError, match="model_type = 'gpt_neox'"):
        run_eval(monkeypatch, capsys, "neox", *flags)
