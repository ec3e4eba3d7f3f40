"""How fast evaluations are beside lm-evaluation-harness, and how fast a model is loaded.

    python bench/bench_eval.py --data FOLDER
    python bench/bench_eval.py --data FOLDER --dtype bfloat16 --json FILE
    python bench/bench_eval.py --part load

The model has GPT-2's shape and random weights: speed does not depend on their values. FOLDER holds
``lambada_openai.jsonl``.

- ``lambada``: seconds to score the same random rows of LAMBADA, from texts to log-probabilities, by
  pygpt (fp32 weights, --dtype bfloat16 under autocast) and by lm-evaluation-harness's ``hf`` model
  with the same files and dtype, for several batch sizes of the harness. Each round calls every
  variant once, in a new order. The factor compares pygpt with the harness's fastest batch size.
- ``load``: in new processes, seconds from a directory on disk to the first token, the time of the
  whole process, and peak memory over that of a process with a tiny model, by the size of the
  weights.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from lib import report
from lib.interleaved import Interleaved, Spread

from pygpt.config import GPTConfig
from pygpt.evaluation import task_file
from pygpt.evaluation.language_model import PygptModel
from pygpt.evaluation.tasks import get_task
from pygpt.hub import huggingface
from pygpt.hub.export import export
from pygpt.model import GPT
from pygpt.planning.hardware import start_device
from pygpt.tokenizers.base import get_tokenizer

GPT2 = GPTConfig(block_size=1024, vocab_size=50257, n_layer=12, n_head=12, n_embd=768)
TINY = GPTConfig(block_size=1024, vocab_size=50257, n_layer=1, n_head=1, n_embd=8)


@dataclasses.dataclass(frozen=True)
class Options:
    """How fast evaluations are beside lm-evaluation-harness, and how fast a model is loaded."""

    part: Literal["lambada", "load"] = "lambada"
    """What is measured."""
    data: Path = Path("data/tasks")
    """Folder with lambada_openai.jsonl."""
    rows: int = 48
    """Rows of LAMBADA in one call, drawn at random."""
    rounds: int = 7
    """How often every variant is timed."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of both sides."""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Batch sizes of lm-evaluation-harness."""
    device: str = "auto"
    """Where both run."""
    json: Path | None = None
    """Where to write the figures."""


# --- LAMBADA --------------------------------------------------------------------------------------


def variants(
    directory: Path, items: list[tuple[str, str]], options: Options, device: torch.device
) -> dict[str, Callable[[], list[Any]]]:
    """Calls that score the rows, by name; each returns one result per row or task."""
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    task = get_task("lambada")
    model, _ = huggingface.load(directory, device)
    ours = PygptModel(model, get_tokenizer("gpt2"))

    def by_pygpt() -> list[Any]:
        mixed = options.dtype == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            found: list[Any] = task.evaluate(ours, items)
        return found

    hf = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, options.dtype)
    ).to(device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    requests = [
        Instance("loglikelihood", {}, (context, f" {word}"), i)
        for i, (context, word) in enumerate(items)
    ]

    def by_harness(batch_size: int) -> Callable[[], list[Any]]:
        harness = HFLM(hf, tokenizer=tokenizer, batch_size=batch_size, device=str(device))
        return lambda: harness.loglikelihood(requests, disable_tqdm=True)

    calls: dict[str, Callable[[], list[Any]]] = {"pygpt": by_pygpt}
    for batch_size in options.batch_sizes:
        calls[f"lm-eval hf, batch size {batch_size}"] = by_harness(batch_size)
    return calls


def measure_lambada(directory: Path, options: Options) -> dict[str, Any]:
    """Time every variant on the same rows and print the table."""
    device = start_device(options.device)
    write_model(directory, GPT2)
    items = random.sample(task_file.load(get_task("lambada"), options.data)[0], options.rows)
    timer = Interleaved(variants(directory, items, options, device), device)
    timer.run(options.rounds)
    ours = timer.seconds.pop("pygpt")
    fastest = min(timer.seconds, key=lambda name: statistics.median(timer.seconds[name]))
    factors = Spread.of(
        theirs / mine for theirs, mine in zip(timer.seconds[fastest], ours, strict=True)
    )
    seconds = {"pygpt": ours, **timer.seconds}
    report.print_table(
        f"LAMBADA, {options.rows} rows, {options.dtype}: {report.headline(device)}",
        ("scored by", "rows/s", "20–80 %"),
        [
            (name, *report.cells(Spread.of(options.rows / s for s in each)))
            for name, each in seconds.items()
        ],
    )
    print(
        f"pygpt is {factors.median:.2f} times as fast as {fastest} "
        f"({factors.low:.2f} to {factors.high:.2f})"
    )
    return {
        "rows_per_second": {
            name: dataclasses.asdict(Spread.of(options.rows / s for s in each))
            for name, each in seconds.items()
        },
        "fastest_of_lm_eval": fastest,
        "factor": dataclasses.asdict(factors),
    }


# --- loading --------------------------------------------------------------------------------------

_FIRST_TOKEN = """
import json, sys, time
start = time.perf_counter()
from pathlib import Path
import torch
from pygpt.hub import huggingface
from pygpt.planning.hardware import start_device
def peak():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmHWM"].split()[0]) * 1024
device = start_device("cpu")
ready = time.perf_counter()
with torch.no_grad():
    model, _ = huggingface.load(Path(sys.argv[1]), device)
    first = model(torch.tensor([[464]]))[0].argmax()
now = time.perf_counter()
print(json.dumps({"load_s": now - ready, "import_s": ready - start, "peak": peak(),
                  "weights": 4 * sum(p.numel() for p in model.parameters())}))
"""


def measure_load(directory: Path, options: Options) -> dict[str, Any]:
    """Time new processes that load a model and predict one token; the file is in the page cache."""
    write_model(directory / "gpt2", GPT2)
    write_model(directory / "tiny", TINY)
    found: dict[str, list[dict[str, float]]] = {"gpt2": [], "tiny": []}
    for _ in range(options.rounds):
        for name, measured in found.items():
            start = time.perf_counter()
            command = [sys.executable, "-c", _FIRST_TOKEN, str(directory / name)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            process = {"process_s": time.perf_counter() - start}
            measured.append(json.loads(done.stdout) | process)
    base = statistics.median(each["peak"] - each["weights"] for each in found["tiny"])
    figures = {
        "load_and_first_token_s": Spread.of(each["load_s"] for each in found["gpt2"]),
        "whole_process_s": Spread.of(each["process_s"] for each in found["gpt2"]),
        "peak_by_weights": Spread.of(
            (each["peak"] - base) / each["weights"] for each in found["gpt2"]
        ),
    }
    report.print_table(
        f"gpt2's shape from disk to the first token: {report.headline(torch.device('cpu'))}",
        ("figure", "median", "20–80 %"),
        [(name, *report.cells(spread, decimals=2)) for name, spread in figures.items()],
    )
    return {name: dataclasses.asdict(spread) for name, spread in figures.items()}


def write_model(directory: Path, config: GPTConfig) -> None:
    """A model of random weights, as a directory that pygpt and transformers load."""
    model = GPT(config, "eager")
    export(model, get_tokenizer("gpt2"), directory, format="hf", dtype="float32", card="")


def main(options: Options) -> None:
    """Measure one part, print its table, write the figures."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parts = {"lambada": measure_lambada, "load": measure_load}
    with tempfile.TemporaryDirectory(prefix="pygpt-bench-") as folder:
        figures = parts[options.part](Path(folder) / "model", options)
    if options.json:
        fields = {"options": dataclasses.asdict(options), **figures}
        report.write_json(options.json, torch.device("cpu"), fields)


if __name__ == "__main__":
    main(tyro.cli(Options))
