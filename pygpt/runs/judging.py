"""What the eval command computes: one model's loss on a split, or models side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from pygpt.config import TrainConfig
from pygpt.config.data_parts import parse_data
from pygpt.data.mixture import Mixture, Split, open_split
from pygpt.evaluation import task_file
from pygpt.evaluation.language_model import LanguageModel, PygptModel, TransformersModel
from pygpt.evaluation.loss import Evaluation
from pygpt.evaluation.mixture import MixtureEvaluation, evaluate_split
from pygpt.evaluation.results import Result
from pygpt.evaluation.tasks import documents, get_task
from pygpt.hub import huggingface
from pygpt.planning.hardware import start_device
from pygpt.planning.out_of_memory import is_out_of_memory
from pygpt.runs.run import Run
from pygpt.tokenizers.base import load_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.progress import ProgressBar

logger = logging.getLogger(__name__)


class Options(Protocol):
    """The options of the eval command that this module reads; see there."""

    @property
    def data(self) -> tuple[str, ...]: ...
    @property
    def tokenizer(self) -> str | None: ...
    @property
    def split(self) -> str: ...
    @property
    def tokens(self) -> int | None: ...
    @property
    def block_size(self) -> int | None: ...
    @property
    def stride(self) -> int | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def dtype(self) -> Literal["float32", "bfloat16"]: ...
    @property
    def device(self) -> str: ...
    @property
    def impl(self) -> str: ...
    @property
    def task_data(self) -> Path: ...
    @property
    def examples(self) -> int | None: ...


class Judge:
    """Evaluates the models in some directories.

    Args:
        options: of the eval command.
        places: name as the user gave it → directory; None for a model that transformers runs.
    """

    def __init__(self, options: Options, places: Mapping[str, Path | None]) -> None:
        self.options = options
        self.places = places
        self.device = start_device(options.device)
        self._sources: dict[str, str] = {}

    def loss(self) -> tuple[dict[str, object], list[str]]:
        """Loss of the one model on a split: as fields, and as lines of text."""
        options, (directory,) = self.options, self.places.values()
        assert directory is not None
        model, tokenizer = huggingface.load(directory, self.device, impl=options.impl)
        dataset = self._open_split(directory)
        _check_tokenizer(directory, tokenizer, dataset)
        logger.info("evaluating on %s, %s", self.device, model.impl)
        start = time.perf_counter()
        with self._computing(), ProgressBar("evaluating", 100, unit="%") as bar:
            result = evaluate_split(
                model,
                dataset,
                block_size=options.block_size,
                stride=options.stride,
                max_tokens=options.tokens,
                batch_size=options.batch_size,
                progress=lambda done, total: bar.update(100 * done / total),
            )
        seconds = time.perf_counter() - start
        lines = [
            f"{directory} on {_describe(dataset)}, {options.split}:",
            f"{result}, {result.tokens:,} tokens in {seconds:.1f} s",
        ]
        return _as_fields(result, dataset, directory, seconds), lines

    def results(self, tasks: Sequence[str]) -> dict[str, list[Result]]:
        """Results of every model on the tasks, or on the split where there are none.

        The files are read before a model is loaded; models are loaded one after another.
        """
        names = list(tasks) or [self.options.split]
        items = {task: self._items(task) for task in tasks} or {names[0]: self._documents()}
        return {name: self._of_model(name, items, bool(tasks)) for name in self.places}

    def harness(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Results of every model on tasks of lm-evaluation-harness, as it reports them."""
        try:
            from pygpt.evaluation import lm_eval_adapter
        except ModuleNotFoundError as error:
            raise InputError(
                f'--lm-eval needs {error.name}: pip install "pygpt-trainer[lm-eval]"'
            ) from error
        folder = self.options.task_data if self.options.task_data.is_dir() else None
        return {
            name: lm_eval_adapter.evaluate(self._by_pygpt(name), tasks, folder)
            for name in self.places
        }

    def _items(self, task: str) -> Sequence[Any]:
        found, self._sources[task] = task_file.load(get_task(task), self.options.task_data)
        return found[: self.options.examples]

    def _open_split(self, directory: Path) -> Split:
        """The split of --data, or of what the run of a checkpoint was trained on."""
        options = self.options
        if options.data:
            return open_split(parse_data(options.data), options.split, options.tokenizer)
        config = trained_by(directory)
        tokenizer = options.tokenizer or config.tokenizer
        return open_split(config.data_parts, options.split, tokenizer)

    def _documents(self) -> list[str]:
        first = next(iter(self.places.values()))
        assert first is not None
        dataset = self._open_split(first)
        if isinstance(dataset, Mixture):
            raise InputError(
                "a table compares models on one dataset, and these are "
                f"{len(dataset.datasets)}: say which with --data DIR"
            )
        return documents.read(dataset, self.options.tokens)[: self.options.examples]

    def _of_model(
        self, name: str, items: Mapping[str, Sequence[Any]], are_tasks: bool
    ) -> list[Result]:
        model = self._load(name)
        batch_tokens = self.options.batch_size * model.context
        found: list[Result] = []
        for task, examples in items.items():
            with self._computing(), ProgressBar(f"{name}: {task}", 100, unit="%") as bar:

                def show(done: int, total: int, bar: ProgressBar = bar) -> None:
                    bar.update(100 * done / total)

                if are_tasks:
                    results = get_task(task).evaluate(
                        model, examples, batch_tokens=batch_tokens, progress=show
                    )
                    source = self._sources[task]
                    found += [dataclasses.replace(result, source=source) for result in results]
                else:
                    found += documents.evaluate(
                        model, examples, task, batch_tokens=batch_tokens, progress=show
                    )
        return found

    def _load(self, name: str) -> LanguageModel:
        return self._by_transformers(name) if self.places[name] is None else self._by_pygpt(name)

    def _by_pygpt(self, name: str) -> PygptModel:
        place = self.places[name]
        if place is None:
            raise InputError(f"{name} is not a GPT-2, and --lm-eval runs pygpt's models")
        model, info = huggingface.load(place, self.device, impl=self.options.impl)
        logger.info("%s on %s, %s", name, self.device, model.impl)
        return PygptModel(model, load_tokenizer(info))

    def _by_transformers(self, name: str) -> TransformersModel:
        """In fp32, from safetensors only, without code of the model's own."""
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise InputError(
                f"{name} is not a GPT-2, and transformers, which would run it, is not installed: "
                "pip install transformers"
            ) from error
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"transformers can't load {name}: {reason}") from error
        model.to(self.device)  # type: ignore[arg-type]
        return TransformersModel(model, tokenizer)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """The number type that was asked for; out of memory becomes advice."""
        mixed = self.options.dtype == "bfloat16"
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory with --batch-size {self.options.batch_size}; give a smaller one, "
                "or a smaller --block-size"
            ) from error


def trained_by(directory: Path) -> TrainConfig:
    """The run that a checkpoint belongs to.

    Raises:
        InputError: it belongs to none, or that names no data.
    """
    run = Run.of_checkpoint(directory)
    config = run.config() if run.started else None
    if config is None or not config.data:
        raise InputError(f"{directory} belongs to no run: say which dataset with --data DIR")
    return config


def _check_tokenizer(directory: Path, tokenizer: TokenizerInfo, dataset: Split) -> None:
    if not tokenizer.extends(dataset.tokenizer):
        raise InputError(
            f"{directory} was trained with the tokenizer {tokenizer.name!r} and "
            f"{_describe(dataset)} holds ids of {dataset.tokenizer.name!r}; prepare the text with "
            f"--tokenizer {tokenizer.name}"
        )


def _describe(split: Split) -> str:
    return str(split) if isinstance(split, Mixture) else str(split.path)


def _as_fields(
    result: Evaluation, dataset: Split, directory: Path, seconds: float
) -> dict[str, object]:
    parts = result.parts if isinstance(result, MixtureEvaluation) else {}
    return {
        "model": str(directory),
        "data": _describe(dataset),
        "split": dataset.split,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "seconds": seconds,
        **{f"loss/{name}": part.loss for name, part in parts.items()},
    }
