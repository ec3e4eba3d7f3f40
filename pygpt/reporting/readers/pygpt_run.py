"""A run's directory of pygpt: ``config.toml``, ``run.json`` and ``metrics.jsonl``."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from pygpt.config import TrainConfig, padded_vocab_size, toml_file
from pygpt.data.manifest import DatasetInfo
from pygpt.reporting.readers.lines import read_lines
from pygpt.reporting.runlog import LogBuilder
from pygpt.training.schedule import decay_start
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import parse

NAME = "pygpt run"

_FACTS = [
    "n_layer",
    "n_head",
    "n_embd",
    "block_size",
    "bias",
    "dropout",
    "batch_tokens",
    "micro_batch",
    "max_steps",
    "learning_rate",
    "min_lr",
    "warmup_steps",
    "lr_decay_steps",
    "schedule",
    "preset",
]
_COLUMNS = ("lr", "grad_norm", "tokens_per_second", "mfu", "tokens", "seconds")


def matches(path: Path, head: str) -> bool:
    """A directory with a configuration."""
    return (path / "config.toml").is_file()


def read(path: Path, log: LogBuilder) -> None:
    """Metrics, configuration and environment.

    Raises:
        InputError: the configuration is damaged, or there are no metrics yet.
    """
    config = TrainConfig(**toml_file.read(path / "config.toml"))
    for name in _FACTS:
        value = getattr(config, name)
        log.fact(name, None if value == "auto" else value, "config.toml")
    if config.schedule == "wsd":
        log.fact("decay_from", decay_start(config), "config.toml")
    _read_data(path, config, log)
    environment = _json(path / "run.json")
    if isinstance(environment, list) and environment and isinstance(environment[-1], dict):
        log.fact("card", environment[-1].get("device"), "run.json")
    log.running = _is_held(path / "lock")
    comparison = _json(path / "comparison.json")
    log.comparison = comparison if isinstance(comparison, dict) else None
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise InputError(f"{path} has no metrics.jsonl yet: no step of it is done")
    for line in read_lines(metrics):
        _add(line, log)


def _add(line: str, log: LogBuilder) -> None:
    try:
        fields = parse(line)
        step, loss = fields["step"], fields["train_loss"]
        columns = {name: float(fields[name]) for name in _COLUMNS if name in fields}
        log.train(float(step), float(loss), **columns)
        if fields.get("val_loss") is not None:
            log.validation(float(step), float(fields["val_loss"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        log.skipped += bool(line.strip())  # the last line may be half written


def _read_data(path: Path, config: TrainConfig, log: LogBuilder) -> None:
    """The vocabulary and the size of the corpus, which are not in the configuration."""
    for model in sorted((path / "checkpoints").glob("*/config.json")):
        stored = _json(model)
        if isinstance(stored, dict):
            log.fact("vocab_size", stored.get("vocab_size"), model.name)
    if not config.data:
        return
    log.fact("corpus", ", ".join(config.data), "config.toml")
    try:
        datasets = [DatasetInfo.read(part.path) for part in config.data_parts]
    except InputError:  # moved, or of another trainer: the size stays unknown
        return
    if log.facts.vocab_size is None:
        log.fact("vocab_size", padded_vocab_size(datasets[0].tokenizer.n_vocab), "dataset.json")
    if all("train" in dataset.splits for dataset in datasets):
        tokens = sum(dataset.splits["train"].tokens for dataset in datasets)
        log.fact("corpus_tokens", tokens, "dataset.json")


def _json(path: Path) -> Any:
    """What a JSON file holds; None where there is none that can be read."""
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError):
        return None


def _is_held(lock: Path) -> bool | None:
    """Whether another process holds the run's lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
