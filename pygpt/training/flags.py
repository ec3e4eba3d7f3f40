"""What the flags of ``python -m pygpt.train`` mean: a configuration, and the run it is for.

A new run's values are the preset's, over them the TOML file's, over them the flags'. A resumed
run's are those it was started with, over them the file's, over them the flags'.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from pygpt.config import StartOptions, TrainConfig, from_preset, toml_file
from pygpt.config.other_trainers import hint
from pygpt.data.dataset import check_directory
from pygpt.runs.run import RUNS, Run, newest_run, runs_below
from pygpt.training.launch import Launch
from pygpt.utils import cli
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

# What a resumed run may not change: its weights, or the order of its batches, would no longer fit.
_FIXED_ON_RESUME = (
    "preset", "n_layer", "n_head", "n_embd", "block_size", "bias", "batch_tokens", "seed",
    "sampling", "init_from", "optimizer",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """Train a GPT.

    With no arguments: on the source of this Python's standard library, with a model and a length
    that suit the machine. Values come from the preset, over them the TOML file, over them the
    flags.
    """

    run: TrainConfig
    start: StartOptions = dataclasses.field(default_factory=StartOptions)


def read_command_line(
    args: list[str], launch: Launch | None = None
) -> tuple[TrainConfig, Run, StartOptions]:
    """The configuration that the flags give, the run it is for, and how to start it.

    torch is imported only where a preset depends on whether there is a GPU, after all flags were
    checked.

    Args:
        args: the words after the command.
        launch: of this process; None is one process. After a restart by torchrun the words of a
            new run mean to go on with it.

    Raises:
        InputError: unknown names, a used run directory, nothing to resume.
    """
    for before, word in zip(["", *args], args, strict=False):
        if word.endswith(".py") and not before.startswith("-"):
            raise InputError(
                f"{word}: no Python file is run to configure a run; give --preset NAME, or a TOML "
                "file by --config FILE.toml"
            )
    # These say what the defaults of all other flags are. One without its value is left to tyro.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--preset", "--config", "--out"):
        first.add_argument(flag, nargs="?")
    for flag in ("--resume", "--help", "-h"):
        first.add_argument(flag, action="store_true")
    known, _ = first.parse_known_args(args)
    launch = launch or Launch()
    values = toml_file.read(Path(known.config)) if known.config else {}
    if values.get("preset", "auto") != "auto":
        from_preset(values["preset"])
    out = Path(known.out) if known.out else values.get("out")
    if known.resume and not (known.help or known.h):
        return _resumed(args, out, values, launch)
    restarted = _run_before_restart(out, launch)
    if restarted:
        logger.info("restart %d goes on with %s", launch.restarts, restarted.path)
        return _resumed([*args, "--resume"], restarted.path, values, launch)
    name = known.preset or values.get("preset", "auto")
    line = _parse(args, _base(name if name != "auto" else "stdlib-cpu", values))
    for part in line.run.data_parts:
        check_directory(part.path)
    if name == "auto" and _has_gpu(line.run.device):
        name = "stdlib-gpu"
        line = _parse(args, _base(name, values))
    config = _shape_of_init_from(line.run)
    config.check_shapes(launch.world_size)
    name = "stdlib-cpu" if name == "auto" else name
    run = Run(config.out or RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    if run.started:
        if run.newest_checkpoint():
            raise InputError(
                f"{run.path} holds a run already; go on with it by {resume_command(run)}, or give "
                "another --out"
            )
        logger.warning("%s holds a run without a checkpoint: it is started again", run.path)
    return dataclasses.replace(config, preset=name, out=run.path), run, line.start


def _base(preset: str, values: dict[str, Any]) -> TrainConfig:
    return dataclasses.replace(from_preset(preset), **{**values, "preset": preset})


def _parse(args: list[str], base: TrainConfig) -> CommandLine:
    # tyro adds the values of a flag that may be repeated to the default's.
    if any(word.partition("=")[0] == "--data" for word in args):
        base = dataclasses.replace(base, data=())
    return cli.parse(
        CommandLine,
        prog="python -m pygpt.train",
        default=CommandLine(base),
        args=args,
        unknown=functools.partial(hint, flags=True),
    )


def _shape_of_init_from(config: TrainConfig) -> TrainConfig:
    if config.init_from is None:
        return config
    from pygpt.runs.starting import adopt_shape

    return adopt_shape(config)


def _has_gpu(device: str) -> bool:
    from pygpt.planning.hardware import pick_device

    return pick_device(device).type == "cuda"


def _run_before_restart(out: Path | None, launch: Launch) -> Run | None:
    """The run that torchrun has restarted this process for; None where there was no checkpoint."""
    if not launch.restarts:
        return None
    runs = [Run(out)] if out else [run for run in runs_below(RUNS) if run.launch == launch.id]
    return runs[-1] if runs and runs[-1].newest_checkpoint() else None


def _resumed(
    args: list[str], out: Path | None, values: dict[str, Any], launch: Launch
) -> tuple[TrainConfig, Run, StartOptions]:
    run = Run(out) if out else newest_run()
    if not run.started:
        raise InputError(_describe_missing(run))
    stored = run.config()
    line = _parse(args, dataclasses.replace(stored, **values))
    config = line.run
    config.check_shapes(launch.world_size)
    weights = [[part.weight for part in each.data_parts] for each in (stored, config)]
    if weights[0] != weights[1] and stored.data:
        raise InputError(
            f"data was {' '.join(stored.data)} in {run.path} and can't become "
            f"{' '.join(config.data)} on --resume; start another run for that"
        )
    for field in dataclasses.fields(config):
        before, after = getattr(stored, field.name), getattr(config, field.name)
        if before == after or field.name == "out":
            continue
        if field.name in _FIXED_ON_RESUME:
            raise InputError(
                f"{field.name} was {before} in {run.path} and can't become {after} on --resume; "
                "start another run for that"
            )
        logger.info("resuming with %s = %s (was %s)", field.name, after, before)
    return dataclasses.replace(config, out=run.path), run, line.start


def _describe_missing(run: Run) -> str:
    names = [str(each.path) for each in runs_below(run.path.parent)]
    there = f"there are {', '.join(names)}" if names else f"{run.path.parent} holds no run"
    return f"{run.path} holds no run to resume; {there}. To start one there, leave out --resume"


def resume_command(run: Run) -> str:
    """What to type to go on with a run."""
    return cli.command("train", "--resume", "--out", run.path)
