"""python -m pygpt.eval: how well a model predicts a split, and how it does on tasks."""

from __future__ import annotations

import dataclasses
import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pygpt.evaluation import tasks
from pygpt.runs.models import locate, locate_any
from pygpt.utils import cli
from pygpt.utils.errors import InputError, check_device
from pygpt.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from pygpt.runs.judging import Judge

TASK_DATA = Path("data/tasks")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Measure models on a split of a dataset, or on tasks, side by side.

    One model and no task gives loss (nats per token), perplexity and bits per byte on the split.
    Several models, or tasks, give one table with standard errors. The figures are deterministic.
    Bits per byte can be compared between models of different tokenizers, perplexity can't.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Runs (their newest checkpoints), checkpoints, GPT-2 directories of Hugging Face's layout, or
    models on the Hub. Default: the newest run."""
    compare: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Further models beside them, such as gpt2, gpt2-medium or OWNER/NAME on the Hub. What is not a
    GPT-2 is run by transformers, where that is installed."""
    tasks: str = ""
    """Tasks, comma-separated: lambada, wikitext103, hellaswag, piqa, arc_easy, winogrande, copa."""
    task_data: Path = TASK_DATA
    """Directory of the tasks' files. What is not there is taken from the Hub."""
    lm_eval: str = ""
    """Tasks of lm-evaluation-harness, with commas between; it fetches them itself."""
    examples: int | None = None
    """Read only so many examples of each task, the first ones. Default: all."""
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Dataset directory; several as --data A:0.7 --data B:0.3. Default: what the run was trained
    on."""
    tokenizer: str | None = None
    """Whose ids they are, gpt2 or bytes, for --data without dataset.json. Default: gpt2, if the ids
    don't contradict that."""
    split: str = "val"
    """Split to read."""
    tokens: int | None = None
    """Read about so many tokens: of one model spread evenly over the split, of several the first
    ones. Default: all."""
    block_size: int | None = None
    """Context, in tokens, with one model and no task. Default: the model's."""
    stride: int | None = None
    """Tokens that count per window, with one model and no task; fewer than block_size gives each
    more context and takes longer. Default: block_size."""
    batch_size: int = 8
    """Windows at once: a memory setting."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of GEMM inputs."""
    device: str = "auto"
    """"cpu", "cuda" …; "auto" takes a GPU if there is one."""
    impl: str = "auto"
    """Kernels: "auto", "eager", "triton", "native", or by op: "attention=eager,gelu=triton"."""
    average: bool = False
    """Take the averaged weights of a run (train --ema-decay)."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    json: bool = False
    """Print one JSON object instead of text."""
    markdown: bool = False
    """Print a table in Markdown."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_size", "examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        check_device(self.device)
        for name in self.task_names:
            if name not in tasks.NAMES:
                raise InputError(f"no task {name!r}; {did_you_mean(name, tasks.NAMES)}")
        if self.task_data != TASK_DATA and not self.task_data.is_dir():
            raise InputError(
                f"--task-data {self.task_data} is not a directory; it holds one file a task, such "
                "as lambada.jsonl"
            )

        for name in ("block_size", "stride"):
            if self.is_table and getattr(self, name) is not None:
                raise InputError(f"{name} is for one model and no task; a table has none")
        if self.task_names and (self.data or self.tokens):
            raise InputError("data and tokens are of a split; with tasks none is read")
        if self.json and self.markdown:
            raise InputError("json and markdown are two forms of one table; give one of them")

    @property
    def task_names(self) -> list[str]:
        """The names in `tasks`."""
        return [name.strip() for name in self.tasks.split(",") if name.strip()]

    @property
    def is_table(self) -> bool:
        """Whether a table is asked for, rather than the loss of one model."""
        return bool(self.compare or self.tasks or self.lm_eval or len(self.paths) > 1)


def main() -> None:
    """The command."""
    config = cli.parse(EvalConfig, prog="python -m pygpt.eval")
    names, kind = config.paths or (None,), config.average
    places = {str(n or "newest run"): locate(n, config.revision, average=kind) for n in names}
    others = {name: locate_any(name, config.revision) for name in chain(*config.compare)}
    from pygpt.runs.judging import Judge

    judge = Judge(config, {**places, **others})
    if config.is_table:
        _print_table(config, judge)
        return
    fields, lines = judge.loss()
    print(json.dumps(fields) if config.json else "\n".join(lines))


def _print_table(config: EvalConfig, judge: Judge) -> None:
    from pygpt.evaluation.results import as_json, as_table

    if config.lm_eval:
        print(json.dumps(judge.harness(config.lm_eval.split(",")), default=str))
        return
    results = judge.results(config.task_names)
    if config.json:
        print(json.dumps(as_json(results)))
    else:
        print(as_table(results, markdown=config.markdown))


if __name__ == "__main__":
    cli.run(main)
