"""python -m pygpt.chat: talk to a model, in the terminal or through a server."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import tyro

from pygpt.hub import layout
from pygpt.runs.models import locate
from pygpt.utils import cli
from pygpt.utils.errors import InputError, check_seed
from pygpt.utils.json_file import read_object

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """Talk to a model that was tuned on dialogues. /help lists the commands of the terminal."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """A run (its newest checkpoint), a checkpoint, a directory of Hugging Face's layout, or a model
    on the Hub: OWNER/NAME. Default: the newest run."""
    system: str = ""
    """System message: how the model shall behave."""
    max_new_tokens: int = 256
    """Longest reply, in tokens."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Choose among the k likeliest tokens only."""
    top_p: float | None = 0.95
    """Choose among the likeliest tokens that together have this probability only."""
    seed: int | None = None
    """Fixes the choice; by default each reply has another seed."""
    average: bool = False
    """Take the averaged weights of a run (train --ema-decay)."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    device: str = "auto"
    """"cpu", "cuda" …; "auto" takes a GPU if there is one."""
    impl: str = "auto"
    """Kernels: "auto", "eager", "triton", "native", or by op: "attention=eager,gelu=triton"."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.seed is not None:
            check_seed(self.seed)


def main() -> None:
    """The command."""
    config = cli.parse(ChatConfig, prog="python -m pygpt.chat")
    directory = locate(config.run, config.revision, average=config.average)
    _check_template(directory, config.run)

    from pygpt.hub import huggingface
    from pygpt.inference.chat import Dialogue
    from pygpt.inference.engine import Engine
    from pygpt.inference.sampling import Sampling
    from pygpt.inference.terminal import TerminalChat
    from pygpt.planning.hardware import start_device
    from pygpt.tokenizers.base import load_tokenizer
    from pygpt.tokenizers.chat import ChatTokenizer, Message

    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    device = start_device(config.device)
    model, info = huggingface.load(directory, device, impl=config.impl)
    model.eval()
    tokenizer = load_tokenizer(info)
    assert isinstance(tokenizer, ChatTokenizer)
    engine = Engine(model, tokenizer, max_batch=1)
    logger.info("%s on %s, %s", directory, device, engine.description)
    beginning = [Message("system", config.system)] if config.system else []
    dialogue = Dialogue(tokenizer, model.config.block_size, beginning)
    if beginning:
        dialogue.prompt(config.max_new_tokens)  # refuses a system message that is too long
    TerminalChat(dialogue, engine, sampling, config.max_new_tokens, config.seed).run()


def _check_template(directory: Path, name: str | None) -> None:
    """Raise InputError, with the commands that tune a model, for one without a chat template."""
    _, info = layout.from_config(read_object(directory / "config.json"))
    if info is not None and info.chat is not None:
        return
    prepare = cli.command("prepare", "chat", "DIALOGUES.jsonl", "--out", "data/dialogues")
    train = cli.command(
        "train", "--preset", "chat", "--init-from", name or directory, "--data", "data/dialogues"
    )
    sample = cli.command("sample", name or directory)
    raise InputError(
        f"{directory} has no chat template: it continues texts and does not answer. Tune it on "
        f"dialogues:\n  {prepare}\n  {train}\nor let it continue a text: {sample}"
    )


if __name__ == "__main__":
    cli.run(main)
