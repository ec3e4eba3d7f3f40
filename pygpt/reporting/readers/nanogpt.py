"""What nanoGPT's train.py prints: ``step N: …`` for evaluations and ``iter N: …`` for steps."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from pygpt.reporting.readers.lines import read_lines
from pygpt.reporting.runlog import LogBuilder
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
        batch, block = values.get("batch_size"), values.get("block_size")
        if isinstance(batch, int) and isinstance(block, int):
            accumulation = values.get("gradient_accumulation_steps", 1)
            log.fact("batch_tokens", batch * block * accumulation, "log")


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
    except (SyntaxError, ValueError) as error:
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
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return left * right
    return None


def _add_step(line: str, log: LogBuilder) -> None:
    found = _STEP.match(line)
    if not found:
        log.skipped += 1
        return
    step, loss, milliseconds, mfu = found.groups()
    columns = {"seconds": float(milliseconds) / 1e3}
    if mfu and float(mfu) > 0:  # nanoGPT prints -100 before it has measured
        columns["mfu"] = float(mfu) / 100
    log.train(int(step), float(loss), **columns)


def _add_evaluation(line: str, log: LogBuilder) -> None:
    found = _EVALUATION.match(line)
    if found:
        log.validation(int(found[1]), float(found[3]))
    else:
        log.skipped += 1


def _add_fact(line: str, values: dict[str, Any], log: LogBuilder) -> None:
    """The configuration's file and overrides, which nanoGPT echoes, and two sums it prints."""
    if found := _TOKENS.match(line):
        log.fact("batch_tokens", int(found[1].replace(",", "")), "log")
    elif found := _PARAMETERS.match(line):
        log.fact("n_params", round(float(found[1]) * 1e6), "log")
    elif found := _OVERRIDE.match(line) or _ASSIGNMENT.match(line):
        try:
            value = _arithmetic(ast.parse(found[2].strip(), mode="eval").body)
        except (SyntaxError, ValueError):
            return
        if value is not None:
            values[found[1]] = value
