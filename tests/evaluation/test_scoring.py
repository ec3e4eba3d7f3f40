"""Scores against their definition, one continuation at a time; standard errors; files of tasks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt.evaluation import language_model, task_file
from pygpt.evaluation.language_model import PygptModel
from pygpt.evaluation.multiple_choice import Item
from pygpt.evaluation.results import (
    Result,
    as_json,
    as_table,
    mean_and_stderr,
    perplexity_and_stderr,
)
from pygpt.evaluation.scoring import Request, encode_pair, score
from pygpt.evaluation.tasks import NAMES, get_task
from pygpt.evaluation.tasks.wikitext103 import articles, detokenise, rolling
from pygpt.tokenizers.base import get_tokenizer


@pytest.fixture
def model(seed: int) -> PygptModel:
    torch.manual_seed(seed)
    gpt = GPT(GPTConfig(16, 320, n_layer=2, n_head=2, n_embd=16), "eager").double()
    torch.nn.init.normal_(gpt.wte.weight)
    return PygptModel(gpt, get_tokenizer("bytes"))


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_a_score_is_the_sum_over_single_predictions(
    model: PygptModel, seed: int, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", 3 * 320)
    random = np.random.default_rng(seed)
    requests = [
        Request(random.integers(256, size=n).tolist(), random.integers(256, size=m).tolist())
        for n, m in ((1, 1), (3, 4), (9, 7), (30, 5), (1, 16), (16, 1))
    ]
    scores = score(model, requests, batch_tokens=batch_tokens)
    for request, found in zip(requests, scores, strict=True):
        ids = [*request.context, *request.continuation][-17:]
        logits, _ = model.model(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
        n = len(request.continuation)
        logprobs = logits[0, -n:].log_softmax(-1)
        expected = [row[i].item() for row, i in zip(logprobs, request.continuation, strict=True)]
        assert found.logprobs == pytest.approx(expected, rel=1e-9)
        likeliest = logprobs.argmax(-1).tolist()
        assert list(found.greedy) == [
            a == b for a, b in zip(likeliest, request.continuation, strict=True)
        ]
        assert found.logprob == pytest.approx(sum(expected))


def test_a_continuation_longer_than_the_context_is_refused(model: PygptModel) -> None:
    with pytest.raises(InputError, match="continuation of 17 ids, and the model has a context of"):
        score(model, [Request([1], [2] * 17)])


def test_pairs_are_cut_where_the_contexts_ids_end() -> None:
    gpt2 = PygptModel(
        GPT(GPTConfig(8, 50257, n_layer=1, n_head=1, n_embd=8), "eager"), get_tokenizer("gpt2")
    )
    encode = gpt2.encode
    assert encode_pair(gpt2, "a b", " c") == Request(encode("a b"), encode(" c"))
    assert encode_pair(gpt2, "a b ", "c") == Request(encode("a b"), encode(" c"))
    assert encode_pair(gpt2, "", "c d") == Request([50256], encode("c d"))
    with pytest.raises(InputError, match="the continuation '' of 'a' is empty"):
        encode_pair(gpt2, "a", "")


def test_every_token_of_a_text_is_scored_once(model: PygptModel) -> None:
    for n in (1, 15, 16, 17, 40, 48):
        text = "abcdefgh" * 6
        windows = rolling(model, text[:n])
        scored = [index for request in windows for index in request.continuation]
        assert scored == model.encode(text[:n])
        assert all(len(r.context) + len(r.continuation) <= 17 for r in windows)


def test_standard_errors(seed: int) -> None:
    random = np.random.default_rng(seed)
    mean, stderr = mean_and_stderr([1.0, 0.0, 0.0, 1.0, 1.0])
    assert mean == 0.6
    assert stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    # The delta method against the spread of many draws; 400 of them know it to 4 %.
    draws = []
    for _ in range(400):
        words = random.integers(50, 150, size=200).astype(float)
        nats = 3 * words + random.normal(0, 20, size=200)
        draws.append(perplexity_and_stderr(nats.tolist(), words.tolist()))
    found = np.array(draws)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.2)


def test_tables_and_json() -> None:
    found = {
        "runs/mine": [Result("piqa", "p", 10, accuracy=0.5, accuracy_norm=0.25, stderr=0.01)],
        "gpt2": [Result("piqa", "p", 10, perplexity=math.inf, stderr=math.nan)],
    }
    text = as_table(found)
    assert "piqa  runs/mine  0.5000 ± 0.0100  0.2500" in text
    markdown = as_table(found, markdown=True).splitlines()
    assert markdown[0].startswith("| task | model ")
    assert set(markdown[1]) == set("| -")
    fields = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert fields["runs/mine"]["piqa"] == {
        "protocol": "p", "examples": 10, "accuracy": 0.5, "accuracy_norm": 0.25,
        "perplexity": None, "bits_per_byte": None, "stderr": 0.01, "perplexity_stderr": None,
        "source": None,
    }  # fmt: skip
    assert fields["gpt2"]["piqa"]["perplexity"] is None


LINES = {
    "lambada": '{"context": "a b", "continuation": "c"}\n{"text": "a b c"}',
    "hellaswag": '{"activity_label": "Run", "ctx_a": "A man.", "ctx_b": "he", '
    '"endings": ["x [title] y", "b", "c", "d"], "label": "3"}',
    "piqa": '{"query": "Question: q\\n", "choices": ["a", "b"], "gold": 1}',
    "arc_easy": '{"query": "Question: q", "choices": ["a", "b", "c"], "gold": 2}',
    "copa": '{"query": "q, because", "choices": ["a", "b"], "gold": 0}',
    "winogrande": '{"context_options": ["a", "b"], "continuation": "c", "gold": 1}',
    "wikitext103": '{"page": " = T = \\n \\n a b , c @-@ d"}',
}


@pytest.mark.parametrize("name", NAMES)
def test_files_of_tasks(model: PygptModel, tmp_path: Path, name: str) -> None:
    task = get_task(name)
    file = tmp_path / f"{name}.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + LINES[name].encode() + b"\n\n")
    items, source = task_file.load(task, tmp_path)
    assert source == str(file)
    assert len(items) == len(LINES[name].splitlines())
    (result, *_) = task.evaluate(PygptModel(wide(model), model.tokenizer), items)
    assert result.task == name
    assert result.examples == len(items)
    for bad, message in (
        ("{", r"line 2 is not valid JSON"),
        ("[1]", r"line 2 is of another form .* a line looks like \{"),
        ('{"other": 1}', r"line 2 is of another form \(KeyError"),
    ):
        file.write_text(f"{LINES[name].splitlines()[0]}\n{bad}\n")
        with pytest.raises(InputError, match=f"{file}, {message}"):
            task_file.load(task, tmp_path)
    file.write_text("\n")
    with pytest.raises(InputError, match="has no examples; a line looks like"):
        task_file.load(task, tmp_path)


def wide(model: PygptModel) -> GPT:
    return GPT(GPTConfig(128, 320, n_layer=1, n_head=1, n_embd=8), "eager")


def test_a_gold_answer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gold is 2, and there are 2 choices"):
        Item((("a", "b"), ("a", "c")), 2)
    (tmp_path / "copa.jsonl").write_text('{"query": "q", "choices": ["a", "b"], "gold": 2}')
    with pytest.raises(InputError, match="line 1 is of another form"):
        task_file.load(get_task("copa"), tmp_path)
    for gold in (1.7, True, None):
        row = {"context_options": ["a", "b"], "continuation": "c", "gold": gold}
        (tmp_path / "winogrande.jsonl").write_text(json.dumps(row))
        with pytest.raises(InputError, match="is not the number of a choice"):
            task_file.load(get_task("winogrande"), tmp_path)


def test_a_task_file_in_utf16_is_named(tmp_path: Path) -> None:
    (tmp_path / "copa.jsonl").write_text(LINES["copa"], encoding="utf-16")
    with pytest.raises(InputError, match=r"copa.jsonl is UTF-16 text; .* iconv -f UTF-16"):
        task_file.load(get_task("copa"), tmp_path)


def test_prompts_of_tasks(tmp_path: Path) -> None:
    for name, first in (
        ("piqa", ("Question: q\nAnswer:", " a")),
        ("arc_easy", ("Question: q\nAnswer:", " a")),
        ("hellaswag", ("Run: A man. He", " x.  y".replace("  ", " "))),
        ("winogrande", ("a", " c")),
        ("lambada", None),
    ):
        (tmp_path / f"{name}.jsonl").write_text(LINES[name])
        items = task_file.load(get_task(name), tmp_path)[0]
        if name == "lambada":
            assert items == [("a b", "c"), ("a b", "c")]
        else:
            assert items[0].choices[0] == first


def test_wikitexts_tokenisation_is_undone() -> None:
    text = ' = T = \n \n It was a 1 @,@ 000 @-@ mile ( x ) " quote " , it \'s . \n'
    assert detokenise(text) == ' = T =\n\nIt was a 1,000-mile (x) "quote", it\'s.\n'
    pages = articles(" \n = A = \n \n text \n = = B = = \n more \n = C = \n end \n")
    assert [page.split("\n")[0] for page in pages] == [" = A = ", " = C = "]
