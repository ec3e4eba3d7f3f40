"""python -m pygpt.eval: how well a model predicts a split."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pygpt.data import TokenDataset
from pygpt.evaluation.loss import Evaluation, evaluate
from pygpt.model import GPT
from pygpt.planning.hardware import start_device
from pygpt.runs.models import load_model
from pygpt.runs.run import Run
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils import cli
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Measure loss (nats per token), perplexity and bits per byte of a model on a split.

    The figures are deterministic. Bits per byte can be compared between models of different
    tokenizers, loss and perplexity can't.
    """

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """A run (its newest checkpoint), a checkpoint, or a GPT-2 directory of Hugging Face's layout.
    Default: the newest run."""
    data: Path | None = None
    """Dataset directory. Default: the one the run was trained on."""
    split: str = "val"
    """Split to read."""
    tokens: int | None = None
    """Read about so many tokens, spread evenly over the split. Default: all."""
    block_size: int | None = None
    """Context, in tokens. Default: the model's."""
    stride: int | None = None
    """Tokens that count per window; fewer than block_size gives each more context and takes longer.
    Default: block_size."""
    batch_size: int = 8
    """Windows at once: a memory setting."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of GEMM inputs."""
    device: str = "auto"
    """"cpu", "cuda" …; "auto" takes a GPU if there is one."""
    impl: str = "auto"
    """Kernels: "auto", "eager", "triton", "native", or by op: "attention=eager,gelu=triton"."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


def main() -> None:
    """The command."""
    config = cli.parse(EvalConfig, prog="python -m pygpt.eval")
    device = start_device(config.device)
    model, tokenizer, directory = load_model(config.run, device, impl=config.impl)
    dataset = TokenDataset(config.data or _trained_on(directory), split=config.split)
    _check_tokenizer(directory, tokenizer, dataset)
    logger.info("evaluating on %s, %s", device, model.impl)
    start = time.perf_counter()
    try:
        result = _evaluate(model, dataset, config)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"out of memory with --batch-size {config.batch_size}; give a smaller one, or a "
            "smaller --block-size"
        ) from error
    seconds = time.perf_counter() - start
    if config.json:
        print(json.dumps(_as_fields(result, dataset, directory, seconds)))
    else:
        print(f"{directory} on {dataset.path}, {config.split}:")
        print(f"{result}, {result.tokens:,} tokens in {seconds:.1f} s")


def _evaluate(model: GPT, dataset: TokenDataset, config: EvalConfig) -> Evaluation:
    device = model.wte.weight.device
    mixed = config.dtype == "bfloat16"
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TextColumn("windows"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        return evaluate(
            model,
            dataset,
            block_size=config.block_size,
            stride=config.stride,
            max_tokens=config.tokens,
            batch_size=config.batch_size,
            autocast=torch.autocast(device.type, torch.bfloat16)
            if mixed
            else contextlib.nullcontext(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _trained_on(directory: Path) -> Path:
    """The dataset of the run that a checkpoint belongs to."""
    run = Run(directory.resolve().parent.parent)  # the directory may be given as "."
    data = run.config().data if run.started else None
    if data is None:
        raise InputError(f"{directory} belongs to no run: say which dataset with --data DIR")
    return data


def _check_tokenizer(directory: Path, tokenizer: TokenizerInfo, dataset: TokenDataset) -> None:
    if tokenizer != dataset.tokenizer:
        raise InputError(
            f"{directory} was trained with the tokenizer {tokenizer.name!r} and {dataset.path} "
            f"holds ids of {dataset.tokenizer.name!r}; prepare the text with --tokenizer "
            f"{tokenizer.name}"
        )


def _as_fields(
    result: Evaluation, dataset: TokenDataset, directory: Path, seconds: float
) -> dict[str, object]:
    return {
        "model": str(directory),
        "data": str(dataset.path),
        "split": dataset.split,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "seconds": seconds,
    }


if __name__ == "__main__":
    cli.run(main)
