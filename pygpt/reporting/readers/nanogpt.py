"""What nanoGPT's train.py prints: ``step N: …`` for evaluations and ``iter N: …`` for steps."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

from pygpt.reporting.readers.lines import number, read_lines
from pygpt.reporting.runlog import LARGEST, LogBuilder
from pygpt.utils.errors import InputError

NAME = "nanoGPT stdout"

_NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?|nan|inf)"
_EVALUATION = re.compile(rf"step (\d+): train loss {_NUMBER}, val loss {_NUMBER}")
_STEP = re.compile(rf"iter (\d+): loss {_NUMBER}, time {_NUMBER}ms(?:, mfu {_NUMBER}%)?")
_OVERRIDE = re.compile(r"Overriding: (\w+) = (.+)")
_ASSIGNMENT = re.compile(r"(\w+) = ([^#]+)")
_TOKENS = re.compile(r"tokens per iteration will be: ([\d,]+)")
_PARAMETERS = re.compile(r"number of parameters: ([\d.]+)M")

_FACTS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "block_size",
    "bias": "bias",
    "dropout": "dropout",
    "batch_size": "micro_batch",
    "max_iters": "max_steps",
    "learning_rate": "learning_rate",
    "min_lr": "min_lr",
    "warmup_iters": "warmup_steps",
    "lr_decay_iters": "lr_decay_steps",
    "dataset": "corpus",
}
"""nanoGPT's names of configuration → facts."""


# What ast.parse raises: of too many brackets MemoryError or RecursionError.
_NOT_PYTHON = (SyntaxError, ValueError, MemoryError, RecursionError)


def matches(path: Path, head: str) -> bool:
    """A line of an evaluation or a step."""
    return bool(_EVALUATION.search(head) or _STEP.search(head))


def read(path: Path, log: LogBuilder) -> None:
    """Both kinds of lines, and what the log says of the configuration before them."""
    values: dict[str, Any] = {}
    for line in read_lines(path):
        if line.startswith("iter "):
            _add_step(line, log)
        elif line.startswith("step "):
            _add_evaluation(line, log)
        else:
            _add_fact(line, values, log)
    use_config(values, log, "log")
    if log.facts.batch_tokens is None:
        sizes = {"gradient_accumulation_steps": 1, **values}
        names = ("batch_size", "block_size", "gradient_accumulation_steps")
        factors = [sizes[name] for name in names if isinstance(sizes.get(name), int)]
        if len(factors) == len(names):
            log.fact("batch_tokens", math.prod(factors), "log")


def use_config(values: dict[str, Any], log: LogBuilder, source: str) -> None:
    """Facts from nanoGPT's names of configuration."""
    for name, value in values.items():
        if name in _FACTS:
            log.fact(_FACTS[name], value, source)
    if values.get("decay_lr") is False:
        log.fact("schedule", "constant", source)
    elif {"learning_rate", "lr_decay_iters"} <= values.keys():
        log.fact("schedule", "cosine", source)


def read_config(path: Path) -> dict[str, Any]:
    """The plain assignments of a configuration file of nanoGPT's; nothing is executed.

    Raises:
        InputError: it can't be read or is not Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"can't read the config {path}: {error.strerror}") from error
    except _NOT_PYTHON as error:
        raise InputError(f"{path} is not a Python file of assignments: {error}") from error
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _arithmetic(node.value)
            if value is not None:
                values[node.targets[0].id] = value
    return values


def _arithmetic(node: ast.expr) -> Any:
    """A constant, or a product of constants such as ``5 * 8``; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _arithmetic(node.left), _arithmetic(node.right)
        if _is_number(left) and _is_number(right):
            return left * right
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= LARGEST


def _add_step(line: str, log: LogBuilder) -> None:
    found = _STEP.match(line)
    step, loss, milliseconds, mfu = map(number, found.groups("")) if found else (None,) * 4
    if step is None or loss is None or milliseconds is None:
        log.skipped += 1
        return
    columns = {"seconds": milliseconds / 1e3}
    if mfu is not None and mfu > 0:  # nanoGPT prints -100 before it has measured
        columns["mfu"] = mfu / 100
    log.train(step, loss, **columns)


def _add_evaluation(line: str, log: LogBuilder) -> None:
    found = _EVALUATION.match(line)
    step, loss = (number(found[1]), number(found[3])) if found else (None, None)
    if step is None or loss is None:
        log.skipped += 1
    else:
        log.validation(step, loss)


def _add_fact(line: str, values: dict[str, Any], log: LogBuilder) -> None:
    """The configuration's file and overrides, which nanoGPT echoes, and two sums it prints."""
    if found := _TOKENS.match(line):
        log.fact("batch_tokens", number(found[1]), "log")
    elif found := _PARAMETERS.match(line):
        millions = number(found[1])
        log.fact("n_params", None if millions is None else round(millions * 1e6), "log")
    elif found := _OVERRIDE.match(line) or _ASSIGNMENT.match(line):
        try:
            value = _arithmetic(ast.parse(found[2].strip(), mode="eval").body)
        except _NOT_PYTHON:
            return
        if value is not None:
            values[found[1]] = value
