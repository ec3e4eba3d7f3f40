"""One start of a run: its data, its resolved configuration, and training."""

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
from pygpt.config.data_parts import format_data
from pygpt.data.mixture import Split, open_split
from pygpt.model import GPT
from pygpt.planning import dry_run
from pygpt.planning.hardware import keep_freed_memory, start_device
from pygpt.planning.resolve import Machine, ResolvedConfig, resolve
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.runs.starting import copy_weights
from pygpt.training.conclusion import conclude
from pygpt.training.display import Display, Output, describe
from pygpt.training.flags import resume_command
from pygpt.training.inputs import (
    absolute_parts,
    check_sizes,
    data_of,
    limit_epochs,
    open_data,
    prepare_default,
    vocab_size_of,
)
from pygpt.training.launch import Launch
from pygpt.training.observer import Observers
from pygpt.training.profiling import Profiler, check_snapshot, memory_snapshot
from pygpt.training.ranks import Ranks, joined
from pygpt.training.schedule import announce_schedule, decay_from_now
from pygpt.training.trackers import Trackers
from pygpt.training.trainer import Trainer
from pygpt.utils.cli import say
from pygpt.utils.signals import stop_on_signals


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
                config = limit_epochs(config, split)
            dry_run.report(
                console,
                config,
                vocab_size_of(config),
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
        ranks.on_main(lambda: prepare_default(config))
        train_split, val_split = open_data(config)
        ranks.check_same(
            {f"{split.split} split, sha256": split.checksum for split in (train_split, val_split)}
        )
        config = dataclasses.replace(config, out=run.path, data=format_data(absolute_parts(config)))
        newest = ranks.on_main(run.newest_checkpoint) if options.resume else None
        step = checkpoint.read_state(newest).step if newest else 0
        if options.decay_now:
            config = decay_from_now(config, step, options.decay_now)
        check_sizes(config, train_split, val_split)
        config = limit_epochs(config, train_split)
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
        data = data_of(train_split, val_split)
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
            conclude(console, run, trainer, val_split, display.seconds)


def _comparable(config: TrainConfig, options: StartOptions) -> dict[str, Any]:
    """What all ranks must agree on; data is compared by checksum, its path may differ."""
    fields = dataclasses.asdict(options) | dataclasses.asdict(config)
    fields["version"] = metadata.version("pygpt-trainer")
    own = ("config", "out", "data", "device")
    return {name: value for name, value in fields.items() if name not in own}
