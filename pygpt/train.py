"""python -m pygpt.train: train a GPT, from the data to a sample of what it writes."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TextIO, cast

import torch
from rich.console import Console

from pygpt.config.train import GPTConfig, TrainConfig, padded_vocab_size
from pygpt.data import TokenDataset
from pygpt.data.writer import prepare_stdlib
from pygpt.evaluation.loss import Windows
from pygpt.inference.generation import stream_text
from pygpt.model import GPT
from pygpt.ops.dispatch import Implementations
from pygpt.planning import compile, dry_run
from pygpt.planning.hardware import (
    free_memory,
    keep_freed_memory,
    peak_flops,
    pick_dtype,
    start_device,
)
from pygpt.planning.memory import Plan
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.runs.starting import copy_weights
from pygpt.tokenizers.base import load_tokenizer
from pygpt.tokenizers.bytes import ByteTokenizer
from pygpt.training.display import Display, Output, describe
from pygpt.training.flags import read_command_line, resume_command
from pygpt.training.optimizer import learning_rate
from pygpt.training.trainer import Trainer
from pygpt.utils import cli
from pygpt.utils.cli import say
from pygpt.utils.errors import InputError
from pygpt.utils.signals import stop_on_signals

logger = logging.getLogger(__name__)

STDLIB_DATA = Path("data/stdlib-bytes")
SAMPLE_TOKENS = 400


def main() -> None:
    """The command."""
    config, run = read_command_line(sys.argv[1:])
    console = Console(file=cast(TextIO, Output()), highlight=False)
    if config.dry_run:
        dry_run.report(console, config, _vocab_size(config))
        return
    device = start_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        # TF32 where a GEMM is not in bf16; before the peak rate is measured.
        torch.set_float32_matmul_precision("high")
    train_split, val_split = open_data(config)
    config = resolve(config, device, train_split, val_split)
    with run.claimed():
        train(console, config, run, train_split, val_split)


def train(
    console: Console,
    config: TrainConfig,
    run: Run,
    train_split: TokenDataset,
    val_split: TokenDataset,
) -> None:
    """Train a resolved configuration in its run's directory, to the end or a signal."""
    newest = run.newest_checkpoint() if config.resume else None
    step = checkpoint.read_state(newest).step if newest else 0
    if step >= config.max_steps:
        say(
            console,
            f"{run.path} is at step {step} of {config.max_steps}: nothing is left to train; "
            "a larger --max-steps would go on",
        )
        return
    _announce_schedule(config, step)

    device = torch.device(config.device)
    torch.manual_seed(config.seed)
    model_config = _model_config(config, train_split)
    model = GPT(model_config, config.impl, checkpoint_activations=config.checkpoint_activations).to(
        device
    )
    if config.init_from and not newest:
        copy_weights(model, config.init_from, train_split.tokenizer)
    peak = peak_flops(device, getattr(torch, config.dtype))
    trainer = Trainer(config, model, train_split, val_split, run, peak)
    if newest:
        trainer.resume(newest)
    describe(console, config, model_config, train_split, peak)
    run.open(config, device, step)
    with Display(console, run, config, step) as display, stop_on_signals(display.note) as stop:
        trainer.train(display, stop)
    if stop.signal and trainer.step < config.max_steps:
        say(console, f"stopped at step {trainer.step}; go on with: {resume_command(run)}")
        sys.exit(128 + stop.signal)
    conclude(console, run, trainer, val_split, display.seconds)


# --- the configuration ----------------------------------------------------------------------------


def open_data(config: TrainConfig) -> tuple[TokenDataset, TokenDataset]:
    """The training and the validation split; prepares the default corpus if it is wanted.

    Raises:
        InputError: no dataset is named, or it can't be used.
    """
    path = config.data
    if path is None:
        if not config.preset.startswith("stdlib"):
            raise InputError(
                f"preset {config.preset} needs --data DIR: a directory from "
                "python -m pygpt.prepare text PATH, or one with nanoGPT's train.bin and val.bin"
            )
        path = STDLIB_DATA
        if not path.exists():
            prepare_stdlib(path, "bytes")
    return TokenDataset(path, split="train"), TokenDataset(path, split="val")


def _vocab_size(config: TrainConfig) -> int | None:
    """Rows of the embedding table, where they are known without preparing anything."""
    if config.data:
        return padded_vocab_size(TokenDataset(config.data, split="train").tokenizer.n_vocab)
    if config.preset.startswith("stdlib"):
        return padded_vocab_size(ByteTokenizer().info.n_vocab)
    return None


def resolve(
    config: TrainConfig, device: torch.device, train_split: TokenDataset, val_split: TokenDataset
) -> TrainConfig:
    """Replace every "auto" by what it means here; a resumed run finds it in its configuration.

    Raises:
        InputError: values that don't go together, or more than the machine or the data holds.
    """
    model_config = _model_config(config, train_split)
    if config.batch_tokens > len(train_split):
        raise InputError(
            f"batch_tokens={config.batch_tokens} is more than the {len(train_split)} tokens of the "
            "train split; give a smaller --batch-tokens or more text"
        )
    for split in (train_split, val_split):
        Windows.over(split, config.block_size, config.block_size, config.eval_tokens)
    dtype = pick_dtype(config.dtype, device, config.n_embd)
    impl = str(Implementations.parse(config.impl).resolve(device, model_config))
    peak = peak_flops(device, getattr(torch, dtype))
    config = compile.decided(config, model_config, device.type, peak.flops)
    plan = Plan.of(config, model_config.vocab_size, device.type, getattr(torch, dtype), impl)
    plan.check_host(free_memory(torch.device("cpu")))
    micro_batch, free = config.micro_batch, free_memory(device)
    if micro_batch == "auto":
        micro_batch = plan.largest_micro_batch(free)
    else:
        plan.check_state(free)
    return dataclasses.replace(
        config,
        data=train_split.path.absolute(),
        device=str(device),
        dtype=dtype,
        impl=impl,
        micro_batch=micro_batch,
        lr_decay_steps=config.lr_decay_steps or config.max_steps,
    )


def _model_config(config: TrainConfig, train_split: TokenDataset) -> GPTConfig:
    return config.model(padded_vocab_size(train_split.tokenizer.n_vocab))


def _announce_schedule(config: TrainConfig, step: int) -> None:
    """Say so where the rate is not what one would think: never at its peak, or low for long."""
    assert config.lr_decay_steps is not None
    if config.warmup_steps >= config.lr_decay_steps:
        logger.warning(
            "warmup_steps=%d is not below the %d steps of the decay: the rate rises to the end and "
            "never decays; --warmup-steps %d is a tenth",
            config.warmup_steps,
            config.lr_decay_steps,
            config.lr_decay_steps // 10,
        )
    elif step and config.max_steps > config.lr_decay_steps:
        longer = dataclasses.replace(config, lr_decay_steps=config.max_steps)
        logger.info(
            "the rate stays at %g from step %d on; with --lr-decay-steps %d it would be %g at the "
            "next step, not %g: a rate that is raised makes the loss worse for a while",
            config.min_lr,
            config.lr_decay_steps,
            config.max_steps,
            learning_rate(step, longer),
            learning_rate(step, config),
        )


# --- the end -------------------------------------------------------------------------------------


def conclude(
    console: Console, run: Run, trainer: Trainer, val_split: TokenDataset, seconds: float
) -> None:
    """Say how it went, show what the model writes, where everything lies, and what to try next."""
    config = trainer.config
    tokens = trainer.step * config.batch_tokens
    say(console, f"\n{tokens:,} tokens; this start took {seconds:.0f} s")
    say(console, f"validation: {trainer.evaluation}")
    say(console, "\nWhat it writes:\n")
    model = trainer.finish()
    generator = torch.Generator(model.wte.weight.device).manual_seed(config.seed)
    tokenizer = load_tokenizer(val_split.tokenizer)
    console.file.write(config.prompt)
    for text in stream_text(model, tokenizer, config.prompt, SAMPLE_TOKENS, generator=generator):
        console.file.write(text)
        console.file.flush()
    say(
        console,
        f"\n\nConfiguration, metrics and checkpoints lie in {run.path}. Next, for example:\n"
        f"  {cli.command('sample', run.path, '--prompt', 'class ', '--num-samples', 3)}\n"
        f"  {cli.command('eval', run.path, '--stride', max(1, config.block_size // 4))}\n"
        f"  {resume_command(run)} --max-steps {2 * config.max_steps}",
    )


if __name__ == "__main__":
    cli.run(main)
