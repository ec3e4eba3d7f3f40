"""python -m pygpt.report: what a training log says."""

from __future__ import annotations

import dataclasses
import json
import time
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from pygpt.config import from_preset, toml_file
from pygpt.planning.cards import named_card
from pygpt.reporting.build import as_fields, build
from pygpt.reporting.language import Language
from pygpt.reporting.page import files, text
from pygpt.reporting.readers.nanogpt import read_config, use_config
from pygpt.reporting.runlog import Facts, LogBuilder
from pygpt.reporting.writing import PROMPTS
from pygpt.utils import cli
from pygpt.utils.errors import InputError

SECONDS = 30
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "batch_tokens", "max_steps")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Judge training runs: healthy or not, how far from GPT-2, what more steps would give.

    Reads runs of pygpt and the logs of nanoGPT, llm.c, nanochat, modded-nanogpt, litgpt, Hugging
    Face's Trainer and TensorBoard, and any CSV or JSONL file with a step and a loss.
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories or logs; several are drawn over one another."""
    out: Path | None = None
    """Directory for report.html, report.md and report.json. Default: the run's, or the one with
    the log's name beside it."""
    language: str = "en"
    """"en", "zh-Hant", "ja", "de" or "fr"."""
    card: str | None = None
    """GPU of the run, such as "RTX 4070", where the log does not say."""
    preset: str | None = None
    """pygpt's preset that the run was made with: shape, batch, length and schedule."""
    config: Path | None = None
    """The run's configuration: pygpt's TOML, or nanoGPT's Python file, which is not executed."""
    n_layer: int | None = None
    """Transformer blocks."""
    n_head: int | None = None
    """Attention heads a block."""
    n_embd: int | None = None
    """Width."""
    block_size: int | None = None
    """Context, in tokens."""
    vocab_size: int | None = None
    """Rows of the embedding table."""
    batch_tokens: int | None = None
    """Tokens a step."""
    max_steps: int | None = None
    """Steps that the run was planned for."""
    corpus: str | None = None
    """What it was trained on, such as "openwebtext"."""
    corpus_tokens: int | None = None
    """Tokens of the training split."""
    steps: tyro.conf.UseAppendAction[tuple[tuple[int, ...], ...]] = ()
    """Steps to project to. Default: the planned end; of a finished run 2 and 3⅓ times that."""
    completions: int = 0
    """Prompts, at most 5, for the run's newest checkpoint to continue."""
    compare: str | None = None
    """Model whose completions stand beside the run's: "gpt2", or what `pygpt.sample` takes."""
    watch: bool = False
    """Write the report again every 30 seconds, until the run ends or Ctrl-C."""
    json: bool = False
    """Print report.json instead of the summary; writes files only with --out."""

    def check(self) -> None:
        """Raise InputError for values that can't be used."""
        if not self.paths:
            raise InputError("name a run directory or a log: python -m pygpt.report runs/mine")
        for name in (*SHAPE, "corpus_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.completions <= len(PROMPTS):
            raise InputError(
                f"completions must be from 0 to {len(PROMPTS)}, got {self.completions}"
            )
        if self.compare and not self.completions:
            raise InputError("--compare is for completions; give --completions 3 too")
        if self.watch and self.completions:
            raise InputError(
                "--completions would load the model every 30 seconds with --watch; give one of them"
            )
        if self.watch and self.json:
            raise InputError("--watch refreshes a page, --json prints once; give one of them")


def main() -> None:
    """The command."""
    config = cli.parse(ReportConfig, prog="python -m pygpt.report")
    config.check()
    language, steps = Language(config.language), tuple(chain(*config.steps))
    facts = _facts(config)
    while True:
        reports = build(config.paths, facts, steps, config.completions, config.compare)
        running = config.watch and any(report.log.may_go_on for report in reports)
        if config.json:
            print(json.dumps(as_fields(reports, language), indent=2, ensure_ascii=False))
        if not config.json or config.out:
            out = config.out or _default_out(config.paths[0])
            page = files.write(out, reports, language, SECONDS if running else None)
        if not config.json:
            console = Console()
            text.show(console, reports, language)
            cli.say(console, f"\n{page}")
        if not running:
            return
        time.sleep(SECONDS)


def _facts(config: ReportConfig) -> Facts:
    """What the flags say: a preset, over it a file, over that single values."""
    log = LogBuilder(Path(), "flags")
    if config.preset:
        preset = dataclasses.asdict(from_preset(config.preset))
        preset |= {"vocab_size": 50304, "schedule": "cosine"}
        log.facts.take(preset, f"preset {config.preset}")
    if config.config and config.config.suffix == ".py":
        use_config(read_config(config.config), log, config.config.name)
    elif config.config:
        values = {**toml_file.read(config.config), "schedule": "cosine"}
        log.facts.take(values, config.config.name)
    if config.card:
        log.fact("card", named_card(config.card).name, "--card")
    for name in (*SHAPE, "corpus", "corpus_tokens"):
        log.fact(name, getattr(config, name), f"--{name.replace('_', '-')}")
    return log.facts


def _default_out(first: Path) -> Path:
    return first if first.is_dir() else first.with_name(f"{first.stem}-report")


if __name__ == "__main__":
    cli.run(main)
