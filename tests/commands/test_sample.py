"""The sample command, and what all commands share: the newest run, prompts, help."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt import GPT, GPTConfig, InputError, sample
from pygpt.config import TrainConfig
from pygpt.inference import decoders
from pygpt.inference.engine import Engine, Piece
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.tokenizers.base import get_tokenizer
from pygpt.tokenizers.chars import CharTokenizer
from pygpt.training.optimizer import build_optimizer

INFO = get_tokenizer("bytes").info


def make_run(path: Path, fill: int) -> Run:
    """A run whose model always writes the byte `fill`."""
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=1, n_embd=8))
    with torch.no_grad():
        model.ln_f.weight.zero_()
        assert model.ln_f.bias is not None
        model.ln_f.bias.fill_(1.0)
        model.wte.weight[fill] = 10.0
    optimizer = build_optimizer(model, TrainConfig())
    run = Run(path)
    run.open(TrainConfig(), torch.device("cpu"), 0)
    checkpoint.save(run.checkpoints, model, optimizer, INFO, checkpoint.TrainerState(1, None))
    return run


def run_sample(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", *flags])
    sample.main()


def test_prompt_and_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", ord("x"))
    for place in (run.path, run.newest_checkpoint()):
        run_sample(monkeypatch, str(place), "--prompt", "né", "--max-new-tokens", "30")
        assert capsys.readouterr().out == "né" + "x" * 30 + "\n"


def test_stops_at_end_of_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", INFO.end_of_text)
    run_sample(monkeypatch, str(run.path), "--prompt", "a", "--num-samples", "2")
    assert capsys.readouterr().out == "--- 1 of 2\na\n\n--- 2 of 2\na\n"


def test_newest_run_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no run in .*runs; give the directory of one"):
        run_sample(monkeypatch)
    for name, letter, age in (("old", "o", 100), ("new", "n", 10), ("older", "r", 200)):
        run = make_run(tmp_path / "runs" / name, ord(letter))
        moment = run.metrics_file.stat().st_mtime - age
        os.utime(run.metrics_file, (moment, moment))
    run_sample(monkeypatch, "--max-new-tokens", "2")
    assert capsys.readouterr().out == "nn\n"


def test_seed_beyond_64_bits_is_refused() -> None:
    assert sample.SampleConfig(seed=2**64 - 1)
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match=f"seed must be in .* got {seed}"):
            sample.SampleConfig(seed=seed)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs x and y, which write these letters, and a file of two prompts."""
    monkeypatch.chdir(tmp_path)
    for letter in "xy":
        make_run(tmp_path / letter, ord(letter))
    (tmp_path / "p.jsonl").write_text('{"prompt": "a\\nb"}\n{"prompt": "c"}\n', encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_prompts_of_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sample(monkeypatch, "x", "--prompts", "p.jsonl", "--max-new-tokens", "2")
    assert capsys.readouterr().out == "--- prompt 1 of 2\na\nbxx\n\n--- prompt 2 of 2\ncxx\n"


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("words", [("--compare", "y", "x"), ("--compare", "y", "--compare", "x")])
def test_side_by_side(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sample(monkeypatch, "x", *words, "--prompt", "a", "--max-new-tokens", "2")
    assert capsys.readouterr().out == (
        "a\n\n"
        "x (2 tokens, mean log-probability 0.000):\nxx\n\n"
        "y (2 tokens, mean log-probability 0.000):\nyy\n"
    )


@pytest.mark.usefixtures("two")
def test_what_is_done_is_printed_when_a_batch_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ten.txt").write_text("abcdefghij".replace("", "\n").strip())
    step, calls = Engine.step, itertools.count(1)

    def interrupted(engine: Engine) -> list[Piece]:
        if next(calls) > 2:  # the first eight prompts are done
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sample(monkeypatch, "x", "--prompts", "ten.txt", "--max-new-tokens", "2")
    sections = [f"--- prompt {i} of 10\n{letter}xx\n" for i, letter in enumerate("abcdefgh", 1)]
    assert capsys.readouterr().out == "\n".join(sections)


@pytest.mark.usefixtures("two")
def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_sample(
        monkeypatch, *("x", "--prompts", "p.jsonl", "--compare", "y", "--json"),
        *("--stop", "yy", "--stop", "zz", "--max-new-tokens", "3", "--num-samples", "2"),
    )  # fmt: skip
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(of["prompt"], of["seed"], of["model"]) for of in found] == [
        (prompt, seed, model)
        for prompt in ("a\nb", "c")
        for seed in (1337, 1338)
        for model in ("x", "y")
    ]
    assert {of["mean_logprob"] for of in found} == {0.0}
    assert {(of["model"], of["text"], of["tokens"], of["finish_reason"]) for of in found} == {
        ("x", "xxx", 3, "length"),
        ("y", "", 2, "stop"),
    }


@pytest.mark.usefixtures("two")
def test_mean_logprob_is_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=1, n_embd=8)).eval()
    run = Run(tmp_path / "random")
    run.open(TrainConfig(), torch.device("cpu"), 0)
    optimizer = build_optimizer(model, TrainConfig())
    checkpoint.save(run.checkpoints, model, optimizer, INFO, checkpoint.TrainerState(1, None))
    capsys.readouterr()
    words = ("--prompt", "a", "--json", "--max-new-tokens", "5", "--temperature", "0")
    run_sample(monkeypatch, "random", *words)
    found = json.loads(capsys.readouterr().out)
    ids, logprobs = list(b"a"), []
    while len(logprobs) < 5 and INFO.end_of_text not in ids:
        logits = model(torch.tensor([ids]))[0][0, -1].detach()
        ids.append(int(logits[: INFO.n_vocab].argmax()))
        logprobs.append(float(logits.log_softmax(-1)[ids[-1]]))
    assert found["tokens"] == len(logprobs)
    # fp32 rounding of log-probabilities near -6, and nearly equal logits: far below 1e-4.
    assert found["mean_logprob"] == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-4)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("words", [("--dtype", "bfloat16"), ("--quantize", "int8")])
def test_fewer_bits(
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = []
    made = decoders.make_decoder

    def spy(*args: Any, **kwargs: Any) -> decoders.Decoder:
        seen.append(made(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr("pygpt.inference.engine.make_decoder", spy)
    run_sample(monkeypatch, "x", "--device", "cpu", "--max-new-tokens", "2", *words)
    assert capsys.readouterr().out == "xx\n"
    assert [decoder.description.split()[0] for decoder in seen] == [words[1]]


@pytest.mark.usefixtures("two")
def test_long_prompts_are_said_and_shown_whole(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_sample(monkeypatch, "x", "--prompt", "z" * 20, "--max-new-tokens", "2")
    assert capsys.readouterr().out == "z" * 20 + "xx\n"
    assert "has 20 tokens: the model reads the last 16" in caplog.text


@pytest.mark.usefixtures("two")
def test_what_a_tokenizer_lacks_is_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GPT(GPTConfig(16, 4, n_layer=1, n_head=1, n_embd=8))
    info = CharTokenizer("abc").info
    run = Run(tmp_path / "chars")
    run.open(TrainConfig(), torch.device("cpu"), 0)
    optimizer = build_optimizer(model, TrainConfig())
    checkpoint.save(run.checkpoints, model, optimizer, info, checkpoint.TrainerState(1, None))
    for weights in tmp_path.rglob("model.safetensors"):
        weights.unlink()
    with pytest.raises(InputError, match=r"prompt 1 for chars: .*'z'"):
        run_sample(monkeypatch, "x", "--compare", "chars", "--prompt", "az")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", "-1"), "temperature must be 0 .greedy. or from 0.0001"),
        (("--temperature", "nan"), "temperature"),
        (("--top-k", "0"), "top_k must be at least 1, got 0"),
        (("--top-p", "1.1"), r"top_p must be in \(0, 1\], got 1.1"),
        (("--min-p", "0"), r"min_p must be in \(0, 1\], got 0.0"),
        (("--repetition-penalty", "0"), "repetition_penalty must be from 0.01 to 100, got 0.0"),
        (("--stop", ""), "--stop is empty"),
        (("--num-samples", "0"), "num_samples must be at least 1"),
        (("--max-new-tokens", "0"), "max_new_tokens must be at least 1"),
        (("--prompt", "a", "--prompts", "p.txt"), "--prompt or --prompts, not both"),
        (("--compare",), "--compare needs a value"),
        (("--compare", "no-such-model"), "no model 'no-such-model'"),
        (("--quantize", "int8", "--dtype", "bfloat16"), "--quantize int8 or --dtype bfloat16"),
        (("--quantize", "int8", "--impl", "eager"), "--impl eager excludes it"),
        (("--start=FILE:p.txt",), "--start is nanoGPT's; here it is --prompt; for FILE:PATH"),
        (("--init_from=gpt2",), "the model, without a flag: python -m pygpt.sample gpt2"),
    ],
)
@pytest.mark.usefixtures("two")
def test_bad_input_is_refused_before_weights_are_read(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in tmp_path.rglob("model.safetensors"):
        weights.unlink()
    with pytest.raises(InputError, match=message):
        run_sample(monkeypatch, "x", *words)


def test_text_that_stdout_has_no_letters_for_is_still_printed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ord("x"))
    line = [sys.executable, "-m", "pygpt.sample", str(run.path), "--max-new-tokens", "2"]
    done = subprocess.run(
        [*line, "--prompt", "né½".encode()],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stdout == b"n??xx\n"


def test_run_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    run.open(TrainConfig(), torch.device("cpu"), 0)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        run_sample(monkeypatch, str(run.path))


@pytest.mark.parametrize("command", ["train", "eval", "sample", "prepare"])
def test_help_explains_and_bad_input_leaves_with_status_two(command: str, tmp_path: Path) -> None:
    def start(*flags: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"pygpt.{command}", *flags]
        return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)

    shown = start("--help")
    assert shown.returncode == 0
    assert f"usage: python -m pygpt.{command}" in shown.stdout
    bad = {"train": ["--preset", "x"], "eval": ["x"], "sample": ["x"], "prepare": ["text", "x"]}
    refused = start(*bad[command])
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())
