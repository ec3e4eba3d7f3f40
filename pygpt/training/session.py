"""One start of a run: data, resolved configuration, training, and the summary at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from rich.console import Console

from pygpt.config import StartOptions, TrainConfig, padded_vocab_size
from pygpt.config.data_parts import DataPart, format_data
from pygpt.data.mixture import Split, open_split, parts_of
from pygpt.data.rows import tokens_per_epoch
from pygpt.data.writer import prepare_stdlib
from pygpt.evaluation.loss import windows_of
from pygpt.inference.engine import Piece
from pygpt.inference.generation import generate
from pygpt.model import GPT
from pygpt.planning import dry_run
from pygpt.planning.hardware import keep_freed_memory, start_device
from pygpt.planning.resolve import Machine, ResolvedConfig, resolve
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.runs.starting import copy_weights
from pygpt.tokenizers.base import Tokenizer, load_tokenizer
from pygpt.tokenizers.bytes import ByteTokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.training.display import Display, Output, describe
from pygpt.training.flags import resume_command
from pygpt.training.launch import Launch
from pygpt.training.observer import Observers
from pygpt.training.profiling import Profiler, check_snapshot, memory_snapshot
from pygpt.training.ranks import Ranks, joined
from pygpt.training.schedule import announce_schedule, decay_from_now
from pygpt.training.trackers import Trackers
from pygpt.training.trainer import Trainer
from pygpt.utils import cli
from pygpt.utils.cli import say
from pygpt.utils.errors import InputError
from pygpt.utils.format import duration
from pygpt.utils.signals import stop_on_signals

STDLIB_DATA = Path("data/stdlib-bytes")
SAMPLE_TOKENS = 400


def start(
    config: TrainConfig, run: Run, options: StartOptions, launch: Launch | None = None
) -> None:
    """Train, or with --dry-run print what training would take.

    Args:
        config: the run.
        run: its directory.
        options: how to start it.
        launch: this process among those of the run; None is one process.

    Raises:
        InputError: data, device or configuration that can't be used.
        SystemExit: a signal stopped the run; the status is 128 plus its number.
    """
    launch = launch or Launch()
    if options.dry_run:
        if launch.is_main:
            output = Output("the rest of the estimate is not printed")
            console = Console(file=cast(TextIO, output), highlight=False)
            if config.data and config.epochs is not None:
                split = open_split(config.data_parts, "train", config.tokenizer)
                config = _limit_epochs(config, split)
            dry_run.report(
                console,
                config,
                _vocab_size(config),
                options.card,
                ranks=launch.world_size,
                parallel=options.parallel,
            )
        return
    output = Output("training goes on without it, and Ctrl-C still stops and saves")
    # Only rank 0 prints.
    console = Console(file=cast(TextIO, output), highlight=False, quiet=not launch.is_main)
    device = start_device(launch.device_name(config.device, torch.cuda.device_count()))
    if options.memory_snapshot:
        check_snapshot(device)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        # TF32 where a GEMM is not in bf16; before the peak rate is measured.
        torch.set_float32_matmul_precision("high")
    with joined(launch, device, options.rank_timeout) as ranks:
        run = ranks.on_main(lambda: run)
        Session(console, run, options, launch, ranks).start(config, device)


class Session:
    """One start of a run, on this rank.

    Args:
        console: of rank 0; others print nothing.
        run: the directory.
        options: how to start.
        launch: this process among those of the run.
        ranks: the processes, joined.
    """

    def __init__(
        self, console: Console, run: Run, options: StartOptions, launch: Launch, ranks: Ranks
    ) -> None:
        self._console = console
        self._run = run
        self._options = options
        self._launch = launch
        self._ranks = ranks

    def start(self, config: TrainConfig, device: torch.device) -> None:
        """Open the data, resolve the configuration and train."""
        run, ranks, options = self._run, self._ranks, self._options
        ranks.check_same(_comparable(config, options))
        ranks.on_main(lambda: _prepare_default(config))
        train_split, val_split = open_data(config)
        ranks.check_same(
            {f"{split.split} split, sha256": split.checksum for split in (train_split, val_split)}
        )
        config = dataclasses.replace(config, out=run.path, data=format_data(_absolute(config)))
        newest = ranks.on_main(run.newest_checkpoint) if options.resume else None
        step = checkpoint.read_state(newest).step if newest else 0
        if options.decay_now:
            config = decay_from_now(config, step, options.decay_now)
        _check_sizes(config, train_split, val_split)
        config = _limit_epochs(config, train_split)
        vocab_size = padded_vocab_size(train_split.tokenizer.n_vocab)
        machine = self._smallest(Machine.here(device))
        resolved = ranks.on_main(
            lambda: resolve(
                config,
                vocab_size,
                machine,
                ranks=ranks.world_size,
                parallel=options.parallel,
            )
        )
        resolved = dataclasses.replace(resolved, device=device)
        with contextlib.ExitStack() as claim:
            ranks.on_main(lambda: claim.enter_context(run.claimed()))
            self._train(resolved, train_split, val_split, newest, step)

    def _smallest(self, machine: Machine) -> Machine:
        """With as much memory as the rank with the least has: all take the same micro-batch."""
        shared_by = self._launch.local_world_size if machine.device.type == "cpu" else 1
        free = -self._ranks.largest(-machine.free // shared_by)
        return dataclasses.replace(machine, free=free)

    def _train(
        self,
        resolved: ResolvedConfig,
        train_split: Split,
        val_split: Split,
        newest: Path | None,
        step: int,
    ) -> None:
        """Train in the run's directory, to the last step or a signal."""
        config, run, ranks, console = resolved.config, self._run, self._ranks, self._console
        if step >= config.max_steps:
            ranks.on_main(run.remove_partial)
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
        )
        if resolved.parallel != "fsdp":  # which moves one block after the other
            model = model.to(resolved.device)
        if config.init_from and not newest:
            copy_weights(model, config.init_from, train_split.tokenizer)
        trainer = Trainer(resolved, model, train_split, val_split, run, ranks)
        if newest:
            trainer.resume(newest)
        describe(console, resolved, train_split)
        data = _data_of(train_split, val_split)
        ranks.on_main(lambda: run.open(config, resolved.device, step, data, self._launch.id))
        profiled = self._options.profile if ranks.is_main else None
        recorded = self._options.memory_snapshot and ranks.is_main
        with (
            Display(console, config, step) as display,
            Trackers(config.trackers if ranks.is_main else (), run, config, step + 1) as trackers,
            stop_on_signals(display.note) as stop,
            Profiler(profiled, run, resolved, console) as profiler,
            memory_snapshot(recorded, run.path / "memory.pickle"),
        ):

            def should_stop() -> bool:
                profiler.after_step()
                return stop()

            trainer.train(Observers(display, trackers), should_stop)
        if trainer.step < config.max_steps:
            say(console, f"stopped at step {trainer.step}; go on with: {resume_command(run)}")
            sys.exit(128 + (stop.signal or signal.SIGTERM))  # of another rank's, SIGTERM
        if ranks.is_main:
            _conclude(console, run, trainer, val_split, display.seconds)


# --- before --------------------------------------------------------------------------------------


def _prepare_default(config: TrainConfig) -> None:
    """Make the corpus of the presets that have one, where it is missing."""
    if not config.data and config.preset.startswith("stdlib") and not STDLIB_DATA.exists():
        prepare_stdlib(STDLIB_DATA, "bytes")


def _comparable(config: TrainConfig, options: StartOptions) -> dict[str, Any]:
    """What all ranks must agree on; data is compared by checksum, its path may differ."""
    fields = dataclasses.asdict(options) | dataclasses.asdict(config)
    fields["version"] = metadata.version("pygpt-trainer")
    own = ("config", "out", "data", "device")
    return {name: value for name, value in fields.items() if name not in own}


def open_data(config: TrainConfig) -> tuple[Split, Split]:
    """The training and the validation split.

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
    if config.block_warmup_steps and train_split.tokenizer.chat:
        raise InputError(
            f"block_warmup_steps={config.block_warmup_steps} cuts windows of text; rows of "
            "dialogues are not cut: leave it out"
        )
    for split in (train_split, val_split):
        for dataset, _ in parts_of(split):
            windows_of(dataset, config.block_size, None, config.eval_tokens)


def _limit_epochs(config: TrainConfig, split: Split) -> TrainConfig:
    """The configuration with max_steps for its epochs; those of a resumed run are in its steps.

    Of a mixture, an epoch ends when the part that is used up first was seen once.
    """
    if config.epochs is None:
        return config
    per_epoch = min(
        tokens_per_epoch(dataset, config.block_size) / float(share)
        for dataset, share in parts_of(split)
    )
    steps = max(1, round(config.epochs * per_epoch / config.batch_tokens))
    return dataclasses.replace(config, max_steps=min(config.max_steps, steps), epochs=None)


# --- after ---------------------------------------------------------------------------------------


def _conclude(
    console: Console, run: Run, trainer: Trainer, val_split: Split, seconds: float
) -> None:
    """Print the result, a sample, where everything is, and what to do next."""
    config = trainer.config
    tokens = trainer.step * config.batch_tokens
    say(console, f"\n{tokens:,} tokens; this start took {duration(seconds)}")
    say(console, f"validation: {trainer.evaluation}")
    model = trainer.finish()
    if not val_split.tokenizer.chat:
        _write_sample(console, model, load_tokenizer(val_split.tokenizer), config)
    say(
        console,
        f"\nConfiguration, metrics and checkpoints are in {run.path}. Next:\n"
        + "\n".join(
            f"  {command:<60} # {purpose}"
            for command, purpose in next_steps(run, config, val_split.tokenizer)
        ),
    )


def _write_sample(console: Console, model: GPT, tokenizer: Tokenizer, config: TrainConfig) -> None:
    say(console, "\nWhat it writes:\n")
    console.file.write(config.prompt)

    def write(_: int, piece: Piece) -> None:
        console.file.write(piece.text)
        console.file.flush()

    generate(model, tokenizer, config.prompt, SAMPLE_TOKENS, seed=config.seed, on_piece=write)
    console.file.write("\n")


def next_steps(run: Run, config: TrainConfig, tokenizer: TokenizerInfo) -> list[tuple[str, str]]:
    """Commands that make sense after a run, each with what it is for."""
    prompt = ("--prompt", config.prompt) if config.prompt else ()
    stride = max(1, config.block_size // 4)
    of_text = [
        (cli.command("sample", run.path, *prompt, "--num-samples", 3), "what it writes"),
        (cli.command("eval", run.path, "--stride", stride), "its loss with more context"),
    ]
    of_dialogues = [
        (cli.command("chat", run.path), "talk to it"),
        (cli.command("eval", run.path), "its loss on the held-out replies"),
    ]
    return [
        (cli.command("report", run.path), "is it healthy, and what would more steps give?"),
        *(of_dialogues if tokenizer.chat else of_text),
        (cli.command("export", run.path, "--to", f"{run.path}-hf"), "for other programs"),
        (f"{resume_command(run)} --max-steps {2 * config.max_steps}", "train on"),
    ]
