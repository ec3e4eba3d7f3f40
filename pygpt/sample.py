"""python -m pygpt.sample: let a model write."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pygpt.config.other_trainers import sample_hint
from pygpt.inference.prompts import read_prompts
from pygpt.inference.sampling import Sampling
from pygpt.runs.models import locate
from pygpt.utils import cli
from pygpt.utils.errors import InputError, check_device, check_seed


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Print what a model writes after a prompt, up to end-of-text.

    With one prompt and one model the text is printed while it is written. Several prompts are
    computed in batches, and each is printed when it and those before it are done.
    """

    run: Annotated[str | None, tyro.conf.Positional] = None
    """A run (its newest checkpoint), a checkpoint, a GPT-2 directory of Hugging Face's layout, or a
    model on the Hub: gpt2, gpt2-medium …, OWNER/NAME. Default: the newest run."""
    prompt: str = ""
    """Text to continue; empty starts a new document. Of one that is longer than the context the
    model reads the end."""
    prompts: Path | None = None
    """File of prompts in UTF-8, by its suffix: .txt has one a line, .jsonl has JSON Lines with a
    "prompt", which can have several lines or be empty."""
    compare: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Further models, named as the first is. Every prompt is shown with the completion of each, and
    the mean log-probability of its tokens; each has its own tokenizer and context. Such means can
    be compared between models of one tokenizer only."""
    num_samples: int = 1
    """Completions of each prompt."""
    max_new_tokens: int = 200
    """Longest completion, in tokens. Beyond the context, the model reads on with its newer half."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token (greedy)."""
    top_k: int | None = 200
    """Choose among the k likeliest tokens only; "None" for all."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability only."""
    min_p: float | None = None
    """Choose among tokens only whose probability is at least this fraction of the largest."""
    repetition_penalty: float = 1.0
    """Above 1, such as 1.2: tokens that are in the prompt or the text become less likely."""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Text that ends a completion and is not part of it; several as --stop A --stop B. A newline
    is $'\\n' in bash."""
    average: bool = False
    """Take the averaged weights of the run (train --ema-decay)."""
    revision: str | None = None
    """Branch, tag or commit on the Hub, of the first model."""
    seed: int = 1337
    """Fixes the choice: the same seed gives the same text on the same machine."""
    device: str = "auto"
    """"cpu", "cuda" …; "auto" takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; "auto" is float32. bfloat16 halves what each token reads from memory."""
    quantize: Literal["int8"] | None = None
    """Round the weights to int8, on a CPU: each token reads a quarter of float32's bytes."""
    impl: str = "auto"
    """Kernels: "auto", "eager", "triton", "native", or by op: "attention=eager,gelu=triton"."""
    json: bool = False
    """Print one JSON object a completion: model, prompt, seed, text, tokens, mean_logprob (natural
    logarithm, at temperature 1), finish_reason ("stop" or "length")."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prompt and self.prompts:
            raise InputError("give --prompt or --prompts, not both")
        if not all(self.stop):
            raise InputError("--stop is empty; give the text that ends a completion")
        if not all(self.compare):
            raise InputError("--compare is empty; name one or several models, such as gpt2")
        if self.quantize and self.dtype != "auto":
            raise InputError(f"give --quantize {self.quantize} or --dtype {self.dtype}, not both")
        check_device(self.device)
        check_seed(self.seed)
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty
        )


def main() -> None:
    """The command."""
    config = cli.parse(SampleConfig, prog="python -m pygpt.sample", unknown=sample_hint)
    prompts = read_prompts(config.prompts) if config.prompts else [config.prompt]
    first = locate(config.run, config.revision, average=config.average)
    models = {config.run or str(first): first}
    models |= {name: locate(name) for names in config.compare for name in names}

    from pygpt.inference import completions
    from pygpt.inference.decoders import check_quantize
    from pygpt.planning.hardware import start_device

    device = start_device(config.device)
    check_quantize(config.quantize, device, config.impl)
    settings = completions.Settings(
        prompts, config.num_samples, config.max_new_tokens, config.sampling, config.stop,
        config.seed, config.dtype, config.quantize,
    )  # fmt: skip
    sources = [completions.Source(*model, device, config.impl) for model in models.items()]
    for source in sources:
        source.check(prompts)
    if len(prompts) == len(sources) == 1 and not config.json:
        completions.stream(sources[0], settings)
        return
    output = sys.stdout  # a progress bar takes the place of sys.stdout

    def show(index: int, row: completions.Row) -> None:
        lines = "".join(f"{written.as_json()}\n" for written in row)
        text = lines if config.json else completions.as_text(index, row, settings)
        print(text, end="", file=output, flush=True)

    completions.write_all(sources, settings, show)


if __name__ == "__main__":
    cli.run(main)
