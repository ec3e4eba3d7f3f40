"""What the flags of ``python -m pygpt.train`` mean: a configuration, and the run it is for.

A new run's values are the preset's, over them the TOML file's, over them the flags'. A resumed
run's are those it was started with, over them the file's, over them the flags'.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from pygpt.config.train import NOT_STORED, TrainConfig, from_preset, read_toml
from pygpt.planning.hardware import pick_device
from pygpt.runs.run import RUNS, Run, newest_run, runs_below
from pygpt.runs.starting import adopt_shape
from pygpt.utils import cli
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

_PROG = "python -m pygpt.train"

# nanoGPT's flags that have another name here; docs/from-nanogpt.md has them all.
_NANOGPT = {
    "out_dir": "--out",
    "dataset": "--data, a path",
    "batch_size": "--micro-batch, and the batch of a step is --batch-tokens",
    "gradient_accumulation_steps": "what follows from --batch-tokens and --micro-batch",
    "max_iters": "--max-steps",
    "warmup_iters": "--warmup-steps",
    "lr_decay_iters": "--lr-decay-steps",
    "decay_lr": "--min-lr equal to --learning-rate",
    "eval_iters": "--eval-tokens",
    "eval_only": "python -m pygpt.eval RUN",
    "always_save_checkpoint": "--checkpoint-interval and --keep-checkpoints",
    "wandb_log": "metrics.jsonl in the run's directory, and TensorBoard where it is installed",
}

# What a resumed run may not change: its weights, or the order of its batches, would no longer fit.
_FIXED_ON_RESUME = (
    "preset", "n_layer", "n_head", "n_embd", "block_size", "bias", "batch_tokens", "seed",
    "sampling", "init_from", "optimizer",
)  # fmt: skip


def read_command_line(args: list[str]) -> tuple[TrainConfig, Run]:
    """The configuration that the flags give, and the run it is for.

    Raises:
        InputError: unknown names, a used run directory, nothing to resume.
    """
    for before, word in zip(["", *args], args, strict=False):
        if word.endswith(".py") and not before.startswith("-"):
            raise InputError(
                f"{word}: no Python file is run to configure a run; give --preset NAME, or a TOML "
                "file by --config FILE.toml"
            )
    # These say what the defaults of all other flags are. One without its value is tyro's to refuse.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--preset", "--config", "--out", "--device"):
        first.add_argument(flag, nargs="?")
    for flag in ("--resume", "--help", "-h"):
        first.add_argument(flag, action="store_true")
    known, _ = first.parse_known_args(args)
    if known.out == "":
        raise InputError("--out is empty; give the directory of a run, or leave it out")
    values = read_toml(Path(known.config)) if known.config else {}
    out = Path(known.out) if known.out else values.get("out")
    if known.resume and not (known.help or known.h):
        return _resumed(args, Run(out) if out else newest_run(), values)
    name = known.preset or values.get("preset", "auto")
    if name == "auto":
        gpu = pick_device(known.device or values.get("device", "auto")).type == "cuda"
        name = "stdlib-gpu" if gpu else "stdlib-cpu"
    base = dataclasses.replace(from_preset(name), **{**values, "preset": name})
    config = cli.parse(TrainConfig, prog=_PROG, default=base, args=args, nanogpt=_NANOGPT)
    config = adopt_shape(config)
    config.check_shapes()
    run = Run(config.out or RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    if run.started:
        if run.newest_checkpoint():
            raise InputError(
                f"{run.path} holds a run already; go on with it by {resume_command(run)}, or give "
                "another --out"
            )
        logger.warning("%s holds a run without a checkpoint: it is started anew", run.path)
    return dataclasses.replace(config, preset=name, out=run.path), run


def _resumed(args: list[str], run: Run, values: dict[str, Any]) -> tuple[TrainConfig, Run]:
    if not run.started:
        raise InputError(_describe_missing(run))
    stored = run.config()
    base = dataclasses.replace(stored, **values, resume=True)
    config = cli.parse(TrainConfig, prog=_PROG, default=base, args=args, nanogpt=_NANOGPT)
    config.check_shapes()
    for field in dataclasses.fields(config):
        before, after = getattr(stored, field.name), getattr(config, field.name)
        if before == after or field.name in ("out", *NOT_STORED):
            continue
        if field.name in _FIXED_ON_RESUME:
            raise InputError(
                f"{field.name} was {before} in {run.path} and can't become {after} on --resume; "
                "start another run for that"
            )
        logger.info("resuming with %s = %s (was %s)", field.name, after, before)
    return dataclasses.replace(config, out=run.path), run


def _describe_missing(run: Run) -> str:
    names = [str(each.path) for each in runs_below(run.path.parent)]
    there = f"there are {', '.join(names)}" if names else f"{run.path.parent} holds no run"
    return f"{run.path} holds no run to resume; {there}. To start one there, leave out --resume"


def resume_command(run: Run) -> str:
    """What to type to go on with a run."""
    return cli.command("train", "--resume", "--out", run.path)
