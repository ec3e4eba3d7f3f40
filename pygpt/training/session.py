"""One start of a run: data, resolved configuration, training, and the summary at the end."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from rich.console import Console

from pygpt.config import StartOptions, TrainConfig, padded_vocab_size
from pygpt.config.data_parts import DataPart, format_data
from pygpt.data.mixture import Split, open_split, parts_of
from pygpt.data.writer import prepare_stdlib
from pygpt.evaluation.loss import Windows
from pygpt.inference.engine import Piece
from pygpt.inference.generation import generate
from pygpt.model import GPT
from pygpt.planning import dry_run
from pygpt.planning.hardware import keep_freed_memory, start_device
from pygpt.planning.resolve import Machine, ResolvedConfig, resolve
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.runs.starting import copy_weights
from pygpt.tokenizers.base import load_tokenizer
from pygpt.tokenizers.bytes import ByteTokenizer
from pygpt.training.display import Display, Output, describe
from pygpt.training.flags import resume_command
from pygpt.training.schedule import announce_schedule, decay_from_now
from pygpt.training.trainer import Trainer
from pygpt.utils import cli
from pygpt.utils.cli import say
from pygpt.utils.errors import InputError
from pygpt.utils.signals import stop_on_signals

STDLIB_DATA = Path("data/stdlib-bytes")
SAMPLE_TOKENS = 400


def start(config: TrainConfig, run: Run, options: StartOptions) -> None:
    """Train, or with --dry-run print what training would take.

    Raises:
        InputError: data, device or configuration that can't be used.
        SystemExit: a signal stopped the run; the status is 128 plus its number.
    """
    console = Console(file=cast(TextIO, Output()), highlight=False)
    if options.dry_run:
        dry_run.report(console, config, _vocab_size(config), options.card)
        return
    device = start_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        # TF32 where a GEMM is not in bf16; before the peak rate is measured.
        torch.set_float32_matmul_precision("high")
    train_split, val_split = open_data(config)
    config = dataclasses.replace(config, data=format_data(_absolute(config)))
    if options.decay_now:
        newest = run.newest_checkpoint()
        step = checkpoint.read_state(newest).step if newest else 0
        config = decay_from_now(config, step, options.decay_now)
    _check_sizes(config, train_split, val_split)
    vocab_size = padded_vocab_size(train_split.tokenizer.n_vocab)
    resolved = resolve(config, vocab_size, Machine.here(device))
    with run.claimed():
        _train(console, resolved, run, train_split, val_split, resume=options.resume)


def _train(
    console: Console,
    resolved: ResolvedConfig,
    run: Run,
    train_split: Split,
    val_split: Split,
    *,
    resume: bool,
) -> None:
    """Train in the run's directory, to the last step or a signal."""
    config = resolved.config
    newest = run.newest_checkpoint() if resume else None
    step = checkpoint.read_state(newest).step if newest else 0
    if step >= config.max_steps:
        say(
            console,
            f"{run.path} is at step {step} of {config.max_steps}: nothing is left to train; "
            "a larger --max-steps would go on",
        )
        return
    announce_schedule(config, step)
    torch.manual_seed(config.seed)
    model = GPT(
        resolved.model, resolved.impl, checkpoint_activations=config.checkpoint_activations
    ).to(resolved.device)
    if config.init_from and not newest:
        copy_weights(model, config.init_from, train_split.tokenizer)
    trainer = Trainer(resolved, model, train_split, val_split, run)
    if newest:
        trainer.resume(newest)
    describe(console, resolved, train_split)
    run.open(config, resolved.device, step, _data_of(train_split, val_split))
    with Display(console, run, config, step) as display, stop_on_signals(display.note) as stop:
        trainer.train(display, stop)
    if stop.signal and trainer.step < config.max_steps:
        say(console, f"stopped at step {trainer.step}; go on with: {resume_command(run)}")
        sys.exit(128 + stop.signal)
    _conclude(console, run, trainer, val_split, display.seconds)


# --- before --------------------------------------------------------------------------------------


def open_data(config: TrainConfig) -> tuple[Split, Split]:
    """The training and the validation split; prepares the default corpus where it is missing.

    Raises:
        InputError: no dataset is named, or it can't be used.
    """
    parts = config.data_parts
    if not parts:
        if not config.preset.startswith("stdlib"):
            raise InputError(
                f"preset {config.preset} needs --data DIR: a directory from "
                "python -m pygpt.prepare text PATH, or one with nanoGPT's train.bin and val.bin"
            )
        parts = (DataPart(STDLIB_DATA),)
        if not STDLIB_DATA.exists():
            prepare_stdlib(STDLIB_DATA, "bytes")
    train, val = (open_split(parts, name, config.tokenizer) for name in ("train", "val"))
    return train, val


def _absolute(config: TrainConfig) -> list[DataPart]:
    """The datasets of a run, as they are stored with it."""
    parts = config.data_parts or (DataPart(STDLIB_DATA),)
    return [dataclasses.replace(part, path=part.path.absolute()) for part in parts]


def _data_of(*splits: Split) -> list[dict[str, Any]]:
    """What ``run.json`` records of the data: path, share, size and checksum of each dataset."""
    return [
        {
            "path": str(dataset.path),
            "split": dataset.split,
            "share": round(float(share), 6),
            "tokens": len(dataset),
            "sha256": dataset.checksum,
        }
        for split in splits
        for dataset, share in parts_of(split)
    ]


def _vocab_size(config: TrainConfig) -> int | None:
    """Rows of the embedding table, where they are known without preparing anything."""
    if config.data:
        split = open_split(config.data_parts, "train", config.tokenizer)
        return padded_vocab_size(split.tokenizer.n_vocab)
    if config.preset.startswith("stdlib"):
        return padded_vocab_size(ByteTokenizer().info.n_vocab)
    return None


def _check_sizes(config: TrainConfig, train_split: Split, val_split: Split) -> None:
    if config.batch_tokens > len(train_split):
        raise InputError(
            f"batch_tokens={config.batch_tokens} is more than the {len(train_split)} tokens of the "
            "train split; give a smaller --batch-tokens or more text"
        )
    for split in (train_split, val_split):
        for dataset, _ in parts_of(split):
            Windows.over(dataset, config.block_size, config.block_size, config.eval_tokens)


# --- after ---------------------------------------------------------------------------------------


def _conclude(
    console: Console, run: Run, trainer: Trainer, val_split: Split, seconds: float
) -> None:
    """Print the result, a sample, where everything is, and what to do next."""
    config = trainer.config
    tokens = trainer.step * config.batch_tokens
    say(console, f"\n{tokens:,} tokens; this start took {seconds:.0f} s")
    say(console, f"validation: {trainer.evaluation}")
    say(console, "\nWhat it writes:\n")
    model = trainer.finish()
    tokenizer = load_tokenizer(val_split.tokenizer)
    console.file.write(config.prompt)

    def write(_: int, piece: Piece) -> None:
        console.file.write(piece.text)
        console.file.flush()

    generate(model, tokenizer, config.prompt, SAMPLE_TOKENS, seed=config.seed, on_piece=write)
    say(
        console,
        f"\n\nConfiguration, metrics and checkpoints are in {run.path}. Next:\n"
        + "\n".join(f"  {command:<60} # {purpose}" for command, purpose in next_steps(run, config)),
    )


def next_steps(run: Run, config: TrainConfig) -> list[tuple[str, str]]:
    """Commands that make sense after a run, each with what it is for."""
    prompt = ("--prompt", config.prompt) if config.prompt else ()
    stride = max(1, config.block_size // 4)
    return [
        (cli.command("report", run.path), "is it healthy, and what would more steps give?"),
        (cli.command("sample", run.path, *prompt, "--num-samples", 3), "what it writes"),
        (cli.command("eval", run.path, "--stride", stride), "its loss with more context"),
        (cli.command("export", run.path, "--to", f"{run.path}-hf"), "for other programs"),
        (f"{resume_command(run)} --max-steps {2 * config.max_steps}", "train on"),
    ]
