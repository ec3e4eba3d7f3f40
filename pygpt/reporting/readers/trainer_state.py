"""Hugging Face's ``trainer_state.json``, of a Trainer's output directory or a checkpoint in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pygpt.reporting.runlog import LogBuilder
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import parse

NAME = "Hugging Face trainer_state.json"

LARGEST = 256 << 20
"""Bytes of a file that is read, all at once, as JSON has to be."""


def matches(path: Path, head: str) -> bool:
    """An object with a log_history; it may stand at the end of a long file."""
    return path.suffix == ".json" and (path.name == "trainer_state.json" or "log_history" in head)


def read(path: Path, log: LogBuilder) -> None:
    """The history, and facts of the model from a config.json beside.

    Raises:
        InputError: it is not whole JSON, has no log_history, or is larger than `LARGEST`.
    """
    if path.stat().st_size > LARGEST:
        raise InputError(
            f"{path} is larger than {LARGEST >> 20} MiB; write its log_history as JSONL, one "
            "record a line, which is read in bounded memory"
        )
    try:
        state = parse(path.read_bytes())
        history = state["log_history"]
        records = [record for record in history if isinstance(record, dict)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a whole trainer_state.json ({type(error).__name__}: {error}); while "
            "it is being written, try again"
        ) from error
    if state.get("max_steps") != -1:  # of a run by epochs
        log.fact("max_steps", state.get("max_steps"), path.name)
    for record in records:
        _add(record, log)
    _read_model(path.parent / "config.json", log)


def _add(record: dict[str, Any], log: LogBuilder) -> None:
    try:
        step = float(record["step"])
        if "loss" in record:
            names = {"learning_rate": "lr", "grad_norm": "grad_norm"}
            columns = {ours: float(record[key]) for key, ours in names.items() if key in record}
            log.train(step, float(record["loss"]), **columns)
        if "eval_loss" in record:
            log.validation(step, float(record["eval_loss"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        log.skipped += 1


def _read_model(path: Path, log: LogBuilder) -> None:
    try:
        config = parse(path.read_bytes())
        if config.get("model_type") != "gpt2":
            return
    except (OSError, ValueError, AttributeError):
        return
    names = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"}
    names |= {"n_positions": "block_size", "vocab_size": "vocab_size"}
    for theirs, ours in names.items():
        log.fact(ours, config.get(theirs), "config.json")
