"""What nanochat's base_train prints, in its forms of 2025 and 2026.

A step is ``step 00010/21400 (0.05%) | loss: … | lrm: … | dt: …ms | tok/sec: … | mfu: …``; since
2026 the last is called ``bf16_mfu``, and 0.00 for a GPU whose peak nanochat does not know. The
model's shape is a block of JSON, before that it was one line a value.
"""

from __future__ import annotations

import re
from pathlib import Path

from pygpt.reporting.readers.lines import number, read_lines
from pygpt.reporting.runlog import LARGEST, LogBuilder

NAME = "nanochat stdout"

_STEP = re.compile(r"step (\d+)/(\d+) .*?\| loss: ([^\s|]+)(.*)")
_FIELD = re.compile(r"\| ([a-z0-9_ /]+): ([\d.,]+)")
_EVALUATION = re.compile(r"Step (\d+) \| Validation (bpb|loss): (\S+)")
_FACTS = {
    "Total batch size": "batch_tokens",
    "num_layers": "n_layer",
    "model_dim": "n_embd",
    "num_heads": "n_head",
    "Vocab size": "vocab_size",
    "Number of parameters": "n_params",
    "total": "n_params",
    '"n_layer"': "n_layer",
    '"n_embd"': "n_embd",
    '"n_head"': "n_head",
    '"sequence_len"': "block_size",
}
_FACT = re.compile(rf"\s*({'|'.join(_FACTS)})\s*:? ([\d,]+)(?: =>.*|,)?\s*")
_CARD = re.compile(r"GPU: (?:NVIDIA )?(?:GeForce )?(.+?) \| Peak FLOPS")


def matches(path: Path, head: str) -> bool:
    """A line of a step."""
    return any(_STEP.match(line) for line in head.splitlines())


def read(path: Path, log: LogBuilder) -> None:
    """Training loss, times and rates; validation in bits per byte is kept apart from the losses."""
    on_one_gpu = False  # rates are of all together, the report's of one
    for line in read_lines(path):
        if found := _STEP.match(line):
            _add_step(found, log)
        elif found := _EVALUATION.match(line):
            _add_evaluation(found, log)
        elif line.startswith("step "):
            log.skipped += 1
        elif found := _FACT.fullmatch(line):
            log.fact(_FACTS[found[1]], number(found[2]), "log")
        elif line.endswith("Distributed world size: 1"):
            on_one_gpu = True
        elif on_one_gpu and (found := _CARD.match(line)):
            log.fact("card", found[1], "log")


def _add_step(found: re.Match[str], log: LogBuilder) -> None:
    log.fact("max_steps", number(found[2]), "log")
    values = ((key, number(value)) for key, value in _FIELD.findall(found[4]))
    fields = {key: value for key, value in values if value is not None}
    columns = {}
    if "dt" in fields:
        columns["seconds"] = fields["dt"] / 1e3
    if "tok/sec" in fields:
        columns["tokens_per_second"] = fields["tok/sec"]
    if mfu := fields.get("bf16_mfu", fields.get("mfu")):
        columns["mfu"] = mfu / 100
    if "grad norm" in fields:
        columns["grad_norm"] = fields["grad norm"]
    step, loss = number(found[1]), number(found[3])
    if step is None or loss is None:
        log.skipped += 1
    else:
        log.train(step, loss, **columns)


def _add_evaluation(found: re.Match[str], log: LogBuilder) -> None:
    step, value = number(found[1]), number(found[3])
    if step is None or value is None:
        log.skipped += 1
    elif found[2] == "loss":
        log.validation(step, value)
    elif step <= LARGEST:
        log.val_bits_per_byte[int(step)] = value
