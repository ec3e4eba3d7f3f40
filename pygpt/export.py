"""python -m pygpt.export: take a model elsewhere."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import tyro

from pygpt.hub import export, model_card
from pygpt.runs.models import locate
from pygpt.utils import cli
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a model, its tokenizer and a model card into a directory for other programs.

    "hf" is for transformers, vLLM and mlx-lm, "gguf" for llama.cpp, ollama and LM Studio, "onnx"
    for onnxruntime.
    """

    run: Annotated[str, tyro.conf.Positional]
    """A run (its newest checkpoint), a checkpoint, a GPT-2 directory of Hugging Face's layout, or a
    model on the Hub."""
    to: Path
    """Directory to write; it must be missing or empty."""
    average: bool = False
    """Take the averaged weights of a run (train --ema-decay)."""
    format: export.Format = "hf"
    """What to write."""
    dtype: str | None = None
    """Type of the weights: float32 (the default), float16 or bfloat16 with hf; these or q8_0 with
    gguf; float32 with onnx."""
    keep_padding: bool = False
    """Keep the rows of the embedding that the tokenizer has no ids for (50,304 instead of 50,257).
    Without them a softmax has fewer terms: log-probabilities rise by what padding had."""
    push_to_hub: str | None = None
    """Upload the directory to this model on the Hugging Face Hub, OWNER/NAME, afterwards."""

    def __post_init__(self) -> None:
        export.resolve_dtype(self.dtype, self.format)
        if self.push_to_hub is not None and "/" not in self.push_to_hub:
            raise InputError(f"--push-to-hub takes OWNER/NAME, got {self.push_to_hub!r}")


def main() -> None:
    """The command."""
    config = cli.parse(ExportConfig, prog="python -m pygpt.export")
    export.check_packages(config.format)
    export.check_target(config.to)
    directory = locate(config.run, average=config.average)
    _write(config, directory)
    for path in sorted(config.to.iterdir()):
        print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")
    if config.push_to_hub is not None:
        print(export.push(config.to, config.push_to_hub))


def _write(config: ExportConfig, directory: Path) -> None:
    from pygpt.hub import huggingface
    from pygpt.runs.facts import training_facts
    from pygpt.tokenizers.base import load_tokenizer

    model, info = huggingface.load(directory, impl="eager")  # kernels are no part of the file
    padding = model.config.vocab_size - info.n_vocab
    if padding and not config.keep_padding:
        logger.info("leaving out %d padded rows of the embedding (--keep-padding)", padding)
        model = export.without_padding(model, info.n_vocab)
    card = model_card.model_card(
        model.config,
        info,
        training_facts(directory),
        title=Path(config.push_to_hub or config.to).name,
        format=config.format,
        place=config.push_to_hub or str(config.to),
    )
    export.export(
        model.eval(),
        load_tokenizer(info),
        config.to,
        format=config.format,
        dtype=export.resolve_dtype(config.dtype, config.format),
        card=card,
    )


if __name__ == "__main__":
    cli.run(main)
