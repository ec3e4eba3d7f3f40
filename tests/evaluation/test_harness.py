"""pygpt's evaluations against lm-evaluation-harness, on the published files, same model.

A run takes the first rows of each file; all of them, which takes a quarter of an hour, with

    PYGPT_TEST_ALL_ROWS=1 python -m pytest -o timeout=0 tests/evaluation/test_harness.py
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pygpt import GPT, GPTConfig
from pygpt.evaluation import task_file
from pygpt.evaluation.language_model import PygptModel
from pygpt.evaluation.tasks import get_task
from pygpt.hub.export import export
from pygpt.tokenizers.base import get_tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="waits for lm-eval: pip install lm-eval==0.4.13")
DATA = Path(os.environ.get("PYGPT_TEST_DATA", "nowhere"))
needs_data = pytest.mark.skipif(
    not (DATA / "lambada_openai.jsonl").exists(),
    reason="waits for the published files: PYGPT_TEST_DATA=FOLDER",
)
ROWS = None if os.environ.get("PYGPT_TEST_ALL_ROWS") else 24

# How the harness is told of each file; prompts are those of its own tasks.
TEMPLATES: dict[str, dict[str, Any]] = {
    "lambada": {
        "output_type": "loglikelihood", "doc_to_text": "{{context}}",
        "doc_to_target": "{{' '+continuation}}", "metrics": ["perplexity", "acc"],
    },
    "piqa": {
        "output_type": "multiple_choice", "doc_to_text": "{{query.rstrip()}}\nAnswer:",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}", "metrics": ["acc", "acc_norm"],
    },
    "winogrande": {
        "output_type": "multiple_choice", "doc_to_text": "{{gold}}",
        "doc_to_choice": "{{context_options}}", "doc_to_target": "{{continuation}}",
        "metrics": ["acc"],
    },
}  # fmt: skip
TEMPLATES["arc_easy"] = TEMPLATES["piqa"]
TEMPLATES["copa"] = {**TEMPLATES["piqa"], "doc_to_text": "{{query}}"}
FILES = {"lambada": "lambada_openai.jsonl"}


@pytest.fixture
def model(seed: int, tmp_path: Path) -> PygptModel:
    """In double precision: no sum is so near another that rounding could swap two choices."""
    torch.manual_seed(seed)
    gpt = GPT(GPTConfig(256, 50257, n_layer=2, n_head=2, n_embd=32), "eager")
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokenizer = get_tokenizer("gpt2")
    export(gpt, tokenizer, tmp_path / "hf", format="hf", dtype="float32", card="")
    return PygptModel(gpt.double(), tokenizer)


def harness_results(folder: Path, name: str, model: Any) -> dict[str, float]:
    template = dict(TEMPLATES[name])
    metrics = template.pop("metrics")
    rows = (DATA / FILES.get(name, f"{name}.jsonl")).read_text().splitlines()[:ROWS]
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    task = {
        "task": f"local_{name}", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "metric_list": [
            {"metric": m, "aggregation": "perplexity" if m == "perplexity" else "mean",
             "higher_is_better": m != "perplexity"} for m in metrics
        ],
        **template,
    }  # fmt: skip
    (folder / "tasks").mkdir()
    (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model,
        tasks=[f"local_{name}"],
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )["results"][f"local_{name}"]
    return {key.partition(",")[0]: value for key, value in found.items()}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


@needs_data
@pytest.mark.parametrize(
    ("name", "reader"),
    [
        *[(name, "transformers") for name in ("lambada", "piqa", "arc_easy", "winogrande", "copa")],
        ("lambada", "adapter"),
    ],
)
def test_the_harness_finds_the_same(
    model: PygptModel, tmp_path: Path, name: str, reader: str
) -> None:
    from lm_eval.models.huggingface import HFLM

    from pygpt.evaluation.lm_eval_adapter import HarnessModel

    if reader == "transformers":
        pytest.importorskip("accelerate", reason="waits for accelerate")
        theirs: Any = HFLM(
            str(tmp_path / "hf"), dtype="float64", device="cpu", batch_size=4, max_length=256
        )
    else:
        theirs = HarnessModel(model)
    task = get_task(name)
    results = task.evaluate(model, task_file.load(task, DATA)[0][:ROWS])
    expected = harness_results(tmp_path, name, theirs)
    assert results[0].accuracy == expected["acc"]
    if name == "lambada":
        assert results[0].perplexity == pytest.approx(expected["perplexity"], rel=1e-5)
    elif "acc_norm" in expected:
        assert results[0].accuracy_norm == expected["acc_norm"]


def test_whole_texts_and_greedy_writing_are_the_harness_own(
    model: PygptModel, tmp_path: Path, seed: int
) -> None:
    """WikiText's rolling windows, and generation up to a stop text, which other tasks ask for."""
    pytest.importorskip("accelerate", reason="waits for accelerate")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from pygpt.evaluation.lm_eval_adapter import HarnessModel

    folder = str(tmp_path / "hf")
    theirs = HFLM(folder, dtype="float64", device="cpu", batch_size=4, max_length=256)
    ours = HarnessModel(model)
    random = np.random.default_rng(seed)
    # 700 ids are three windows; ids of whole words come back as themselves.
    texts = [" ".join(random.choice(["one", "two", "three"], n)) for n in (1, 255, 256, 700)]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-9
    )
    options = {"until": ["\n"], "max_gen_toks": 16, "do_sample": False}
    writing = [
        Instance("generate_until", {}, (text, options), i) for i, text in enumerate(texts[:2])
    ]
    assert ours.generate_until(writing) == theirs.generate_until(writing, disable_tqdm=True)
