"""From what a user names to a model: a run, a checkpoint, a model directory, a model on the Hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pygpt.hub import layout
from pygpt.hub.download import model_directory
from pygpt.runs.run import AVERAGE, Run, newest_run
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import read_object

if TYPE_CHECKING:
    import torch

    from pygpt.model import GPT
    from pygpt.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)


def locate(
    name: str | os.PathLike[str] | None, revision: str | None = None, *, average: bool = False
) -> Path:
    """The directory that holds a model's ``config.json`` and weights.

    Args:
        name: a run (its newest checkpoint), a checkpoint, a directory in Hugging Face's GPT-2
            layout, "gpt2" and its sizes, or OWNER/NAME on the Hub; None is the newest run.
        revision: a branch, tag or commit on the Hub.
        average: the averaged weights of a run or checkpoint, not those of its last step.

    Raises:
        InputError: there is no such model, it can't be downloaded, the run has no checkpoint, or
            that has no averaged weights.
    """
    if name is not None and not os.fspath(name):
        raise InputError("the model's name is empty; give a run, a directory, gpt2 or OWNER/NAME")
    run = newest_run() if name is None else Run(Path(name))
    if not run.started:
        directory = model_directory(str(name), revision)
        return _average_of(directory) if average else directory
    newest = run.newest_checkpoint()
    if newest is None:
        resume = cli.command("train", "--resume", "--out", run.path)
        raise InputError(f"{run.path} has no checkpoint yet; {resume}")
    return _average_of(newest) if average else newest


def locate_any(name: str, revision: str | None = None) -> Path | None:
    """As `locate`; None for a model that is not a GPT-2, which only transformers runs."""
    try:
        directory = locate(name, revision)
        layout.from_config(read_object(directory / "config.json"))
    except layout.UnsupportedModelError as error:
        logger.info("%s: transformers runs %s instead", error, name)
        return None
    return directory


def _average_of(directory: Path) -> Path:
    if not (directory / AVERAGE).is_dir():
        raise InputError(
            f"{directory} has no averaged weights; a run keeps them with train --ema-decay 0.999"
        )
    return directory / AVERAGE


def load(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    impl: str = "auto",
    revision: str | None = None,
) -> tuple[GPT, Tokenizer]:
    """A model and its tokenizer, ready to use: fp32, in eval mode.

    ::

        model, tokenizer = pygpt.load("runs/mine")
        ids = torch.tensor([tokenizer.encode("The future of AI is")])
        logits, _ = model(ids)

    Args:
        name: a run, a checkpoint, a directory in Hugging Face's GPT-2 layout, "gpt2" and its
            sizes, or OWNER/NAME on the Hub.
        device: where the model goes.
        impl: implementations of the ops; see `pygpt.ops`.
        revision: a branch, tag or commit on the Hub.

    Raises:
        InputError: there is no such model, it is damaged or a variant that pygpt does not run.
    """
    import torch

    from pygpt.hub import huggingface
    from pygpt.tokenizers.base import load_tokenizer

    directory = locate(name, revision)
    model, info = huggingface.load(directory, torch.device(device), impl=impl)
    return model.eval(), load_tokenizer(info)
