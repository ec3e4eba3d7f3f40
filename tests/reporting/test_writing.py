"""Completions: repetition and copies against brute force, then a run's report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pygpt import report
from pygpt.data.dataset import TokenDataset
from pygpt.reporting import writing
from pygpt.reporting.build import build
from pygpt.reporting.findings.writing import shown
from pygpt.reporting.language import Language
from pygpt.reporting.readers import read_log
from pygpt.runs.models import load
from pygpt.utils.errors import InputError
from tests.reporting.logs import healthy, write_csv

TINY = (
    "--preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 32 --block-size 128 "
    "--batch-tokens 256 --dropout 0 --device cpu --dtype float32 --compile False "
    "--eval-tokens 256 --max-steps 20 --eval-interval 10"
).split()


def read_from(text: writing.Ids) -> Callable[[int, int], writing.Ids]:
    return lambda start, length: text[start : start + length]


def longest_by_brute_force(text: writing.Ids, passage: writing.Ids) -> int:
    whole = text.astype("<u2").tobytes()
    for length in range(len(passage), writing.SHORTEST_COPY - 1, -1):
        for first in range(len(passage) - length + 1):
            part = passage[first : first + length].astype("<u2").tobytes()
            at = whole.find(part)
            while at > 0 and at % 2:  # between two ids
                at = whole.find(part, at + 1)
            if at >= 0:
                return length
    return 0


@pytest.mark.parametrize("n_vocab", [2, 3, 50257])
def test_copies_are_those_of_brute_force(
    n_vocab: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_CHUNK", 100)  # copies lie over many borders of chunks
    random = np.random.default_rng(seed)
    text = random.integers(0, n_vocab, 2_000)
    passages = [random.integers(0, n_vocab, n) for n in (0, 7, 8, 64, 64)]
    for at, length in ((90, 30), (195, 8), (1_990, 10), (500, 7)):
        passage = random.integers(0, n_vocab, 64)
        passage[20 : 20 + length] = text[at : at + length]
        passages.append(passage)
    found = writing.longest_copies(read_from(text), len(text), passages)
    for passage, part in zip(passages, found, strict=True):
        assert part.stop - part.start == longest_by_brute_force(text, passage)
        if part.stop:
            assert longest_by_brute_force(text, passage[part]) == part.stop - part.start


def test_a_copy_beyond_the_searched_part_is_not_found(seed: int) -> None:
    text = np.random.default_rng(seed).integers(0, 50257, 300)
    (inside,) = writing.longest_copies(read_from(text), 200, [text[150:190]])
    (beyond,) = writing.longest_copies(read_from(text), 200, [text[210:250]])
    assert (inside, beyond) == (slice(0, 40), slice(0, 0))


@pytest.mark.parametrize(
    ("ids", "loop"),
    [([], 0), ([1, 2, 3], 0), ([7, 1, 1, 7], 0), ([7, 1, 1, 1, 7], 3), ([1, 2] * 2, 0),
     ([9, *[1, 2] * 3, 1, 9], 7), ([*[4] * 3, *[1, 2, 3] * 4], 12)],
)  # fmt: skip
def test_a_loop_is_a_passage_three_times_in_a_row(ids: list[int], loop: int) -> None:
    assert writing.longest_loop(np.array(ids, dtype=np.int64)) == loop


def test_distinct_n() -> None:
    one = writing.Completion("m", "p", "t", np.array([1, 2, 1, 2, 1]), -1.0)
    assert (one.distinct(1), one.distinct(2), one.distinct(3)) == (2 / 5, 2 / 4, 2 / 3)


def test_a_completion_is_shown_on_one_line_without_control_characters() -> None:
    assert shown("a\nb\x1b[31m\r") == "a↵b�[31m�"


def test_completions_of_a_run(
    run_train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = run_train("mine", "--prompt", "import ")
    other = run_train("other", "--n-embd", "16")
    words = ["--completions", "2", "--compare", str(other.path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["report", str(run.path), *words])
    report.main()
    fields = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    found = [finding for finding in fields["findings"] if finding["id"] == "completion"]
    expected = [
        (of.path, text) for of in (run, other) for text in ("The future of AI is", "import ")
    ]
    assert len(found) == len(expected)
    for finding, (path, prompt) in zip(found, expected, strict=True):
        assert finding["text"].startswith(f"{path} continues “{prompt}”: “")
        assert "mean log-probability -" in finding["evidence"]
        assert "tokens searched" in finding["evidence"]
    for name in ("report.md", "report.html"):
        page = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert page.count("The future of AI is") >= 2
        assert "What it writes" in page


def test_log_probabilities_and_copies_are_the_models_and_the_datas(
    run_train: Callable[..., Any], data: Path
) -> None:
    run = run_train("mine")
    one, *_ = writing.write(run.path, 1).completions
    again, *_ = writing.write(run.path, 1).completions
    assert one.text == again.text
    model, tokenizer = load(run.path)
    prompt = tokenizer.encode(one.prompt)
    row = torch.tensor([[*prompt, *one.ids.tolist()]])
    logits = model(row, row)[0].detach().log_softmax(-1)[0]
    each = [float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(one.ids)]
    # 64 sums of fp32 rounding, of losses near 4: far below 1e-4.
    assert one.mean_logprob == pytest.approx(np.mean(each), abs=1e-4)
    dataset = TokenDataset(data, "train")
    text = dataset.window(0, len(dataset))
    assert one.copied_tokens == longest_by_brute_force(text, one.ids)


def test_what_can_not_be_done_is_said(
    run_train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    seed: int,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = run_train("mine")
    log = write_csv(tmp_path / "log.csv", healthy(seed))
    facts = read_log(log).facts
    of_run, of_log = build((run.path, log), facts, completions=1, compare="no-such-model")
    for judged, model, reason in (
        (of_run, "no-such-model", "no model 'no-such-model'"),
        (of_log, "log.csv", "a log holds no weights"),
    ):
        texts = [Language()(of.text) for of in judged.findings if of.verdict == "unknown"]
        assert any(f"No completion by {model}: {reason}" in text for text in texts)
    eval_command = "python -m pygpt.eval"
    for judged in (of_run, of_log):
        (gpt2,) = [of for of in judged.findings if of.id == "gpt2"]
        assert (gpt2.command or "").startswith(eval_command) == (judged is of_run)
    (without,) = build((run.path,), facts)
    assert not [of for of in without.findings if of.id == "completion"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--completions", "6"), "completions must be from 0 to 5, got 6"),
        (("--compare", "gpt2"), "give --completions 3 too"),
        (("--completions", "1", "--watch"), "would load the model every 30 seconds"),
    ],
)
def test_wrong_flags(words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "runs/mine", *words])
    with pytest.raises(InputError, match=message):
        report.main()
