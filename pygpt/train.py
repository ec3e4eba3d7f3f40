"""python -m pygpt.train: train a GPT, from the data to a sample of what it writes."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pygpt import checkpoint, cli
from pygpt.config import (
    GPTConfig,
    TrainConfig,
    from_preset,
    from_toml,
    padded_vocab_size,
)
from pygpt.corpus import prepare_stdlib
from pygpt.data import TokenDataset
from pygpt.errors import InputError
from pygpt.evaluation import Evaluation
from pygpt.generate import stream_text
from pygpt.hardware import peak_flops, pick_device, pick_dtype
from pygpt.model import GPT
from pygpt.ops import Implementations
from pygpt.optim import learning_rate
from pygpt.run import RUNS, Run, newest_run
from pygpt.tokenizer import load_tokenizer
from pygpt.trainer import StepReport, Trainer, stop_on_signals

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

STDLIB_DATA = Path("data/stdlib-bytes")
SAMPLE_TOKENS = 400

# What a resumed run may not change: its weights, or the order of its batches, would no longer fit.
_FIXED_ON_RESUME = (
    "n_layer", "n_head", "n_embd", "block_size", "bias", "batch_tokens", "seed", "sampling",
)  # fmt: skip


def main() -> None:
    """The command."""
    config, run = read_command_line(sys.argv[1:])
    console = Console(highlight=False)
    device = pick_device(config.device)
    train_split, val_split = open_data(config)
    config = resolve(config, device, train_split)
    model_config = config.model(padded_vocab_size(train_split.tokenizer.n_vocab))
    newest = run.newest_checkpoint() if config.resume else None
    step = checkpoint.read_state(newest).step if newest else 0
    _check_not_finished(config, run, step)

    torch.manual_seed(config.seed)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where a GEMM is not in bf16
    model = GPT(model_config, config.impl).to(device)
    peak = peak_flops(device, getattr(torch, config.dtype))
    describe(console, config, model_config, train_split, device)
    with Display(console, run, config, step, str(peak)) as display:
        trainer = Trainer(config, model, train_split, val_split, run, peak, display)
        if newest:
            trainer.resume(newest)
        run.open(config, device, step)
        with stop_on_signals(display.note) as stop:
            trainer.train(stop)
    if stop.signal and trainer.step < config.max_steps:
        console.print(f"stopped at step {trainer.step}; go on with: {resume_command(run)}")
        sys.exit(128 + stop.signal)
    conclude(console, run, trainer, val_split, display.seconds)


# --- the configuration ----------------------------------------------------------------------------


def read_command_line(args: list[str]) -> tuple[TrainConfig, Run]:
    """The configuration that the flags give, and the run it is for.

    Raises:
        InputError: unknown names, a used run directory, nothing to resume.
    """
    # These four say what the defaults of all other flags are.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--config", type=Path)
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(args)
    if known.resume:
        return _resumed(args, Run(known.out) if known.out else newest_run(), known.preset)
    base = from_preset(_preset_for_machine(args) if known.preset in (None, "auto") else known.preset)
    if known.config:
        base = from_toml(known.config, base if known.preset else None)
    config = cli.parse(TrainConfig, prog="python -m pygpt.train", default=base, args=args)
    out = config.out or RUNS / f"{config.preset}-{datetime.now():%Y%m%d-%H%M%S}"
    run = Run(out)
    if run.started:
        raise InputError(
            f"{out} holds a run already; go on with it by --resume --out {out}, or give another --out"
        )
    return dataclasses.replace(config, preset=base.preset, out=out), run


def _preset_for_machine(args: list[str]) -> str:
    device = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    device.add_argument("--device", default="auto")
    name: str = device.parse_known_args(args)[0].device
    return "stdlib-gpu" if pick_device(name).type == "cuda" else "stdlib-cpu"


def _resumed(args: list[str], run: Run, preset: str | None) -> tuple[TrainConfig, Run]:
    if not run.started:
        # Killed in its first moments, before anything was trained.
        logger.warning("%s holds no run to resume: starting it", run.path)
        return read_command_line([arg for arg in args if arg != "--resume"])
    stored = run.config()
    if preset not in (None, stored.preset):
        raise InputError(f"{run.path} is a run of {stored.preset!r}; --preset can't change on --resume")
    config = cli.parse(
        TrainConfig,
        prog="python -m pygpt.train",
        default=dataclasses.replace(stored, resume=True),
        args=args,
    )
    for field in dataclasses.fields(config):
        before, after = getattr(stored, field.name), getattr(config, field.name)
        if before == after or field.name in ("resume", "out", "config"):
            continue
        if field.name in _FIXED_ON_RESUME:
            raise InputError(
                f"{field.name} was {before} in {run.path} and can't become {after} on --resume; "
                "start another run for that"
            )
        logger.info("resuming with %s = %s (was %s)", field.name, after, before)
    return dataclasses.replace(config, out=run.path), run


def open_data(config: TrainConfig) -> tuple[TokenDataset, TokenDataset]:
    """The training and the validation split; prepares the default corpus if it is wanted.

    Raises:
        InputError: no dataset is named, or it can't be used.
    """
    path = config.data
    if path is None:
        if not config.preset.startswith("stdlib"):
            raise InputError(
                f"preset {config.preset} needs --data DIR: a directory from python -m pygpt.prepare "
                "text PATH, or one with nanoGPT's train.bin and val.bin"
            )
        path = STDLIB_DATA
        if not path.exists():
            prepare_stdlib(path, "bytes")
    return TokenDataset(path, split="train"), TokenDataset(path, split="val")


def resolve(config: TrainConfig, device: torch.device, train_split: TokenDataset) -> TrainConfig:
    """Replace every "auto" by what it means here; a resumed run finds it in its configuration."""
    dtype = pick_dtype(config.dtype, device, config.n_embd)
    impl = Implementations.parse(config.impl).resolve(device)
    micro_batch = config.micro_batch
    if micro_batch == "auto":
        micro_batch = _largest_micro_batch(config, device)
    config.accumulation(micro_batch)  # refuses what does not divide, before anything is built
    return dataclasses.replace(
        config,
        data=train_split.path.absolute(),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        impl=str(impl),
        micro_batch=micro_batch,
        lr_decay_steps=config.lr_decay_steps or config.max_steps,
    )


def _largest_micro_batch(config: TrainConfig, device: torch.device) -> int:
    """The largest divisor of the batch's sequences within a moderate number of tokens."""
    sequences = config.batch_sequences()
    limit = max(1, (8192 if device.type == "cuda" else 4096) // config.block_size)
    return max(n for n in range(1, min(limit, sequences) + 1) if sequences % n == 0)


def _check_not_finished(config: TrainConfig, run: Run, step: int) -> None:
    if step >= config.max_steps:
        raise InputError(
            f"{run.path} is at step {step} and max_steps is {config.max_steps}: nothing is left to "
            "train; give a larger --max-steps to go on"
        )
    assert config.lr_decay_steps is not None
    if step and config.max_steps > config.lr_decay_steps:
        longer = dataclasses.replace(config, lr_decay_steps=config.max_steps)
        logger.info(
            "the rate stays at %g after step %d; --lr-decay-steps %d would raise it to %g now, and "
            "the loss with it for a while",
            config.min_lr,
            config.lr_decay_steps,
            config.max_steps,
            learning_rate(step, longer),
        )


def resume_command(run: Run) -> str:
    """What to type to go on with a run."""
    return f"python -m pygpt.train --resume --out {run.path}"


# --- what the user sees ---------------------------------------------------------------------------


def describe(
    console: Console,
    config: TrainConfig,
    model_config: GPTConfig,
    train_split: TokenDataset,
    device: torch.device,
) -> None:
    """Say what is going to be trained, on what, and how."""
    n_params = model_config.n_params(positions=False)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    total = config.max_steps * config.batch_tokens
    accumulation = config.accumulation(int(config.micro_batch))
    console.print(
        f"{config.preset}: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"context {config.block_size}: {n_params / 1e6:.2f} M parameters (positions not counted)"
    )
    console.print(
        f"data: {train_split.path}, {len(train_split):,} tokens ({train_split.tokenizer.name}); "
        f"{config.max_steps} steps of {config.batch_tokens:,} are {total / len(train_split):.2f} "
        "epochs"
    )
    console.print(
        f"on {name}, {config.dtype}, {accumulation} × {config.micro_batch} sequences a step"
        f"{', compiled' if config.compile else ''}; {config.impl}"
    )


class Display:
    """Shows training: a live bar on a terminal, lines elsewhere; TensorBoard where installed."""

    def __init__(
        self, console: Console, run: Run, config: TrainConfig, step: int, peak: str
    ) -> None:
        self._console = console
        self._run = run
        self._config = config
        self._peak = peak
        self._start = time.perf_counter()
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=config.max_steps, completed=step)
        self._tensorboard: SummaryWriter | None = None

    def __enter__(self) -> Display:
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(self._run.path / "tensorboard")
        self._console.print(f"MFU is the share of {self._peak}")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._tensorboard:
            self._tensorboard.close()

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.perf_counter() - self._start

    def note(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(escape(text))

    def on_step(self, report: StepReport) -> None:
        """Show a step."""
        text = (
            f"loss {report.train_loss:.4f}  lr {report.lr:.2e}  "
            f"{report.tokens_per_second:,.0f} tokens/s  MFU {report.mfu:.1%}"
        )
        self._progress.update(self._task, completed=report.step, description=text)
        if not self._console.is_terminal and report.step % self._config.log_interval == 0:
            self.note(f"step {report.step}/{self._config.max_steps}  {text}")
        if self._tensorboard:
            for name, value in report.fields().items():
                if name not in ("step", "tokens"):
                    self._tensorboard.add_scalar(name, value, report.step)

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Show an evaluation."""
        self.note(f"step {step}: validation {evaluation}")

    def on_checkpoint(self, path: Path) -> None:
        """Show a checkpoint."""
        self.note(f"saved {path}")


def conclude(
    console: Console, run: Run, trainer: Trainer, val_split: TokenDataset, seconds: float
) -> None:
    """Say how it went, show what the model writes, where everything lies, and what to try next."""
    config = trainer.config
    tokens = trainer.step * config.batch_tokens
    console.print(f"\n{tokens:,} tokens; this start took {seconds:.0f} s")
    console.print(f"validation: {trainer.evaluation}")
    console.print("\nWhat it writes:\n")
    trainer.model.eval()
    generator = torch.Generator(trainer.model.wte.weight.device).manual_seed(config.seed)
    tokenizer = load_tokenizer(val_split.tokenizer)
    console.file.write(config.prompt)
    for text in stream_text(
        trainer.model, tokenizer, config.prompt, SAMPLE_TOKENS, generator=generator
    ):
        console.file.write(text)
        console.file.flush()
    console.print(
        f"\n\nConfiguration, metrics and checkpoints lie in {run.path}. Next, for example:\n"
        f'  python -m pygpt.sample {run.path} --prompt "class " --num-samples 3\n'
        f"  python -m pygpt.eval {run.path} --stride {config.block_size // 4}\n"
        f"  {resume_command(run)} --max-steps {2 * config.max_steps}"
    )


if __name__ == "__main__":
    cli.run(main)
