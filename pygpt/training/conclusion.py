"""The end of a run: its result, what it writes, and what to do next."""

from __future__ import annotations

from rich.console import Console

from pygpt.config import TrainConfig
from pygpt.data.mixture import Split
from pygpt.inference.engine import Piece
from pygpt.inference.generation import generate
from pygpt.model import GPT
from pygpt.runs.run import Run
from pygpt.tokenizers.base import Tokenizer, load_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.training.flags import resume_command
from pygpt.training.trainer import Trainer
from pygpt.utils import cli
from pygpt.utils.cli import say
from pygpt.utils.format import duration

SAMPLE_TOKENS = 400


def conclude(
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
