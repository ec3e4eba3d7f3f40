"""python -m pygpt.chat: talk to a model, in the terminal or through a server."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pygpt.hub import layout
from pygpt.inference.sampling import Sampling
from pygpt.runs.models import locate
from pygpt.runs.run import newest_run
from pygpt.utils import cli
from pygpt.utils.errors import InputError, check_device, check_seed
from pygpt.utils.json_file import read_object

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """Talk to a model that was tuned on dialogues. /help lists the commands of the terminal."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """A run (its newest checkpoint), a checkpoint, a directory of Hugging Face's layout, or a model
    on the Hub: OWNER/NAME. Default: the newest run."""
    serve: bool = False
    """Serve a web page to chat and OpenAI's API, in place of the terminal."""
    host: str = "127.0.0.1"
    """Where --serve listens: the default is reached from this machine only, 0.0.0.0 from others."""
    port: int = 8000
    """Port of --serve; 0 takes a free one."""
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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the weights; "auto" is the model's own."""
    quantize: Literal["int8"] | None = None
    """"int8" rounds the weights that each token reads, on a CPU: faster than bfloat16."""
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
        if self.quantize and self.dtype != "auto":
            raise InputError(f"give --quantize {self.quantize} or --dtype {self.dtype}, not both")
        if not 0 <= self.port < 65536:
            raise InputError(f"port must be from 0 to 65535, got {self.port}")
        if self.seed is not None:
            check_seed(self.seed)
        check_device(self.device)
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.temperature, self.top_k, self.top_p)


def main() -> None:
    """The command."""
    config = cli.parse(ChatConfig, prog="python -m pygpt.chat")
    name = config.run or str(newest_run().path)
    directory = locate(name, config.revision, average=config.average)
    _check_template(directory, name)
    if config.serve:
        from pygpt.inference.server import check_packages

        check_packages()
        from pygpt.inference.server.access import listen

        listener = listen(config.host, config.port)

    from pygpt.hub import huggingface
    from pygpt.inference.chat import Dialogue
    from pygpt.inference.decoders import check_quantize
    from pygpt.inference.engine import Engine
    from pygpt.inference.terminal import TerminalChat
    from pygpt.planning.hardware import start_device
    from pygpt.tokenizers.base import load_tokenizer
    from pygpt.tokenizers.chat import ChatTokenizer, Message

    device = start_device(config.device)
    check_quantize(config.quantize, device, config.impl)
    model, info = huggingface.load(directory, device, impl=config.impl)
    model.eval()
    tokenizer = load_tokenizer(info)
    assert isinstance(tokenizer, ChatTokenizer)
    beginning = [Message("system", config.system)] if config.system else []
    block_size = model.config.block_size
    dialogue = Dialogue(tokenizer, block_size, beginning)
    if beginning:
        dialogue.prompt(config.max_new_tokens)  # refuses a system message that is too long
    engine = Engine(
        model, tokenizer, max_batch=8 if config.serve else 1,
        dtype=config.dtype, quantize=config.quantize,
    )  # fmt: skip
    del model  # the engine keeps what it needs: with bf16 and int8 weights, half and less
    logger.info("%s on %s, %s", directory, device, engine.description)
    if config.serve:
        from pygpt.inference.server.app import serve
        from pygpt.inference.server.protocol import Served

        served = Served(
            Path(name).resolve().name, tokenizer, block_size, config.sampling,
            config.max_new_tokens, config.seed, config.system,
        )  # fmt: skip
        serve(engine, served, listener, config.host)
    else:
        TerminalChat(dialogue, engine, config.sampling, config.max_new_tokens, config.seed).run()


def _check_template(directory: Path, name: str) -> None:
    """Raise InputError, with the commands that tune a model, for one without a chat template."""
    _, info = layout.from_config(read_object(directory / "config.json"))
    if info is not None and info.chat is not None:
        return
    prepare = cli.command("prepare", "chat", "DIALOGUES.jsonl", "--out", "data/dialogues")
    train = cli.command(
        "train", "--preset", "chat", "--init-from", name, "--data", "data/dialogues"
    )
    sample = cli.command("sample", name)
    raise InputError(
        f"{directory} has no chat template: it continues texts and does not answer. Tune it on "
        f"dialogues:\n  {prepare}\n  {train}\nor let it continue a text: {sample}"
    )


if __name__ == "__main__":
    cli.run(main)
