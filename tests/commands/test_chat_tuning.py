"""`train --preset chat`: from dialogues to a model that other programs talk to."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pygpt import GPT, GPTConfig, InputError
from pygpt import eval as eval_command
from pygpt import export as export_command
from pygpt.data import TokenDataset
from pygpt.data.dialogue_writer import PrepareChat
from pygpt.data.rows import rows_of
from pygpt.hub.export import export
from pygpt.hub.stored import read_tensors
from pygpt.runs.run import Run
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.chat import Message

TINY = ("--preset chat --device cpu --dtype float32 --batch-tokens 256 --micro-batch 2 "
        "--eval-tokens 4096 --eval-interval 4 --checkpoint-interval 4 --impl eager "
        "--warmup-steps 1 --learning-rate 1e-3").split()  # fmt: skip
WORDS = "one two three four five six seven eight".split()


@pytest.fixture
def dialogues(tmp_path: Path, seed: int) -> Path:
    draw = random.Random(seed)
    with (tmp_path / "x.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(80):
            texts = (" ".join(draw.choices(WORDS, k=draw.randrange(1, 6))) for _ in range(2))
            roles = ("user", "assistant")
            messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
            print(json.dumps({"messages": messages}), file=file)
    PrepareChat((tmp_path / "x.jsonl",), tmp_path / "chat", "bytes", val_fraction=0.2).run()
    return tmp_path / "chat"


@pytest.fixture
def source(tmp_path: Path, seed: int) -> Path:
    """A model of plain bytes, which knows no special token."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(128, 257, n_layer=1, n_head=2, n_embd=16), "eager")
    export(
        model, get_tokenizer("bytes"), tmp_path / "source", format="hf", dtype="float32", card=""
    )
    return tmp_path / "source"


def losses(run: Run) -> list[float]:
    return [line["train_loss"] for line in run.read_metrics()]


def test_tuning_ends_after_its_epochs_and_goes_on_exactly(
    run_train: Callable[..., Run], dialogues: Path, source: Path, capsys: Any
) -> None:
    flags = ("--data", str(dialogues), "--init-from", str(source), "--block-size", "64")
    whole = run_train("whole", *flags)
    said = capsys.readouterr().out
    assert "What it writes" not in said
    assert f"pygpt.chat {whole.path}" in said
    assert "--stride" not in said
    assert whole.config().block_size == 64
    n_rows = len(rows_of(TokenDataset(dialogues, "train"), 64))
    assert len(losses(whole)) == whole.config().max_steps == max(1, round(3 * n_rows * 64 / 256))
    run_train("parts", *flags, "--max-steps", "5", "--lr-decay-steps", str(len(losses(whole))))
    parts = run_train("parts", "--resume", "--max-steps", str(len(losses(whole))))
    assert losses(parts) == losses(whole)
    a, b = ((run.newest_checkpoint() or run.path) / "model.safetensors" for run in (whole, parts))
    for name, tensor in read_tensors(a).items():
        assert (tensor == read_tensors(b)[name]).all(), name


def test_transformers_reads_the_template_of_a_tuned_model(
    run_train: Callable[..., Run], dialogues: Path, source: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    run = run_train("run", "--data", str(dialogues), "--init-from", str(source), "--max-steps", "4")
    exported = tmp_path / "exported"
    monkeypatch.setattr("sys.argv", ["export", str(run.path), "--to", str(exported)])
    export_command.main()
    tokenizer = chat_tokenizer(get_tokenizer("bytes"))
    messages = [Message("system", "Be kind."), Message("user", "Hi <|end|>?"),
                Message("assistant", "Yes."), Message("user", "日本?")]  # fmt: skip
    fields = [{"role": message.role, "content": message.content} for message in messages]
    fields[1]["content"] = messages[1].content.replace("<|end|>", "")
    messages[1] = Message("user", fields[1]["content"])
    for path in (run.newest_checkpoint(), exported):
        theirs = transformers.AutoTokenizer.from_pretrained(str(path))
        ids = theirs.apply_chat_template(fields, add_generation_prompt=True, return_dict=False)
        assert ids == tokenizer.encode_prompt(messages)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(path))
        reply = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
        assert reply.shape[1] > len(ids)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["eval", str(run.path), "--json"])
    eval_command.main()
    last = [line for line in run.read_metrics() if "val_loss" in line][-1]
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(last["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--block-warmup-steps", "3", "--block-size", "64"), "rows of dialogues are not cut"),
        (("--block-size", "8"), "has a reply within block_size=8 tokens"),
        (("--epochs", "0"), "epochs must be finite and above 0"),
    ],
)
def test_what_dialogues_do_not_support_is_refused(
    run_train: Callable[..., Run], dialogues: Path, source: Path, capsys: Any,
    flags: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    with pytest.raises((InputError, SystemExit)) as caught:
        run_train("run", "--data", str(dialogues), "--init-from", str(source), *flags)
    assert message in " ".join(f"{caught.value} {capsys.readouterr().err}".split())


def chitchat(path: Path, n: int) -> Path:
    """Dialogues of the package chitchat-dataset: who speaks second is the assistant."""
    found = importlib.util.find_spec("chitchat_dataset")
    if found is None or found.origin is None:
        pytest.skip('needs real dialogues: pip install "pygpt-trainer[test]" (chitchat-dataset)')
    talks = json.loads(Path(found.origin).with_name("dataset.json").read_text(encoding="utf-8"))
    with path.open("w", encoding="utf-8") as file:
        for talk in [*talks.values()][:n]:
            turns = [
                turn for turn in talk["messages"] if any(part["text"].strip() for part in turn)
            ]
            messages = [
                {
                    "role": "user" if turn[0]["sender"] == turns[0][0]["sender"] else "assistant",
                    "content": " ".join(part["text"] for part in turn),
                }
                for turn in turns
            ]
            print(json.dumps({"messages": messages}), file=file)
    return path


def test_tuning_on_real_dialogues_lowers_the_loss_on_held_out_replies(
    run_train: Callable[..., Run], tmp_path: Path
) -> None:
    PrepareChat((chitchat(tmp_path / "x.jsonl", 1500),), tmp_path / "chat", "bytes").run()
    run = run_train(
        "run", "--data", str(tmp_path / "chat"), "--n-layer", "2", "--n-head", "2", "--n-embd",
        "64", "--block-size", "64", "--batch-tokens", "1536", "--micro-batch", "24",
        "--optimizer", "muon", "--muon-lr-scale", "1", "--learning-rate", "5e-3",
        "--epochs", "9", "--max-steps", "100", "--eval-interval", "25",
        "--checkpoint-interval", "100", "--eval-tokens", "16384", "--impl", "auto",
    )  # fmt: skip
    lines = [line["val_loss"] for line in run.read_metrics() if "val_loss" in line]
    train, val = (targets_of(tmp_path / "chat", split) for split in ("train", "val"))
    frequencies = (np.bincount(train, minlength=261) + 1) / (len(train) + 261)
    unigram = -np.log(frequencies[val]).mean()
    # What predicts each byte of a reply by its frequency alone is beaten by what read the dialogue.
    assert lines[-1] < min(lines[0], unigram - 0.3)


def targets_of(path: Path, split: str) -> Any:
    dataset = TokenDataset(path, split)
    assert dataset.loss_mask is not None
    return dataset.window(0, len(dataset))[dataset.loss_mask.astype(bool)]


def test_dialogues_are_mixed_with_text(
    run_train: Callable[..., Run], dialogues: Path, source: Path, data: Path
) -> None:
    mixed = ("--data", f"{dialogues}:0.5", "--data", f"{data}:0.5")
    run = run_train("run", *mixed, "--init-from", str(source), "--block-size", "64",
                    "--max-steps", "4")  # fmt: skip
    last = run.read_metrics()[-1]
    parts = [last[f"val_loss/{path.name}"] for path in (dialogues, data)]
    assert last["val_loss"] == pytest.approx(sum(parts) / 2)
