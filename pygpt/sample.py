"""python -m pygpt.sample: let a model write."""

from __future__ import annotations

import dataclasses
import logging
from typing import Annotated

import tyro

from pygpt.runs.models import locate
from pygpt.utils import cli
from pygpt.utils.errors import InputError, check_seed

logger = logging.getLogger(__name__)

_NANOGPT = {"start": "--prompt", "out_dir": "the run, without a flag: python -m pygpt.sample RUN"}


def _nanogpt_hint(name: str) -> str | None:
    return f"--{name} is nanoGPT's; here it is {_NANOGPT[name]}" if name in _NANOGPT else None


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Print what a model writes behind a prompt, as it is written. Stops at end-of-text."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """A run (its newest checkpoint), a checkpoint, a GPT-2 directory of Hugging Face's layout, or a
    model on the Hub: gpt2, gpt2-medium …, OWNER/NAME. Default: the newest run."""
    prompt: str = ""
    """Text to continue; empty starts a new document."""
    num_samples: int = 1
    """Continuations, one after another."""
    max_new_tokens: int = 200
    """Longest continuation, in tokens."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token (greedy)."""
    top_k: int | None = 200
    """Choose among the k likeliest tokens only; "None" for all."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability only."""
    average: bool = False
    """Take the averaged weights of a run (train --ema-decay)."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    seed: int = 1337
    """Fixes the choice: the same seed gives the same text on the same machine."""
    device: str = "auto"
    """"cpu", "cuda" …; "auto" takes a GPU if there is one."""
    impl: str = "auto"
    """Kernels: "auto", "eager", "triton", "native", or by op: "attention=eager,gelu=triton"."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_seed(self.seed)


def main() -> None:
    """The command."""
    config = cli.parse(SampleConfig, prog="python -m pygpt.sample", unknown=_nanogpt_hint)
    directory = locate(config.run, config.revision, average=config.average)

    from pygpt.hub import huggingface
    from pygpt.inference.engine import Piece
    from pygpt.inference.generation import generate
    from pygpt.inference.sampling import Sampling
    from pygpt.planning.hardware import start_device
    from pygpt.tokenizers.base import load_tokenizer

    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    device = start_device(config.device)
    model, info = huggingface.load(directory, device, impl=config.impl)
    logger.info("%s on %s, %s", directory, device, model.impl)
    model.eval()
    tokenizer = load_tokenizer(info)

    def write(_: int, piece: Piece) -> None:
        print(piece.text, end="", flush=True)

    for i in range(config.num_samples):
        if config.num_samples > 1:
            gap = "\n" if i else ""
            print(f"{gap}--- {i + 1} of {config.num_samples}")
        print(config.prompt, end="", flush=True)
        generate(
            model, tokenizer, config.prompt, config.max_new_tokens,
            sampling=sampling, seed=(config.seed + i) % 2**64, on_piece=write,
        )  # fmt: skip
        print()


if __name__ == "__main__":
    cli.run(main)
