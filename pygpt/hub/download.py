"""Where a model's name leads: a directory, or the files of a model on the Hugging Face Hub.

Of a model on the Hub only what pygpt reads is fetched: ``config.json``, the weights in safetensors
and the vocabulary. The library huggingface_hub keeps them in its cache (``HF_HOME``), which
other programs share; ``HF_HUB_OFFLINE=1`` reads from there alone. Nothing here imports torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from pygpt.hub import layout
from pygpt.hub.repository import Repository
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import read_object
from pygpt.utils.suggest import did_you_mean

KNOWN = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
"""Names that need no owner before them."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_directory(name: str, revision: str | None = None) -> Path:
    """The directory of a model: `name` itself, or the cache's after a download.

    Args:
        name: a directory; one of KNOWN; or OWNER/NAME on the Hub. A directory has precedence.
        revision: a branch, tag or commit on the Hub.

    Raises:
        InputError: neither a directory nor a model; the Hub or the model can't be reached; it is
            another architecture or a variant that pygpt does not run; or it has no safetensors.
    """
    if Path(name).exists():
        return Path(name)
    repository = hub_id(name)
    if repository is None:
        raise InputError(_unknown(name))
    return _Model(repository, revision).fetch()


def hub_id(name: str) -> str | None:
    """OWNER/NAME on the Hub; None where `name` can only be a path.

    "runs/mine" is a path if the directory "runs" exists.
    """
    if name in KNOWN:
        return KNOWN[name]
    is_id = _HUB_ID.fullmatch(name) is not None and not Path(name).parent.exists()
    return name if is_id else None


def _unknown(name: str) -> str:
    return (
        f"no model {name!r}: it is neither a directory here nor a known name on the Hub "
        f"({did_you_mean(name, KNOWN)}); give a run, a model's directory, or OWNER/NAME"
    )


class _Model:
    """One model on the Hub."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name = name
        self._repository = Repository(name, revision)

    def fetch(self) -> Path:
        """Download what pygpt reads, the configuration first: it may refuse the model."""
        config = self._get("config.json")
        if config is None:
            raise InputError(f"{self.name} on the Hub has no config.json: it is not a model")
        try:
            layout.from_config(read_object(config))
        except InputError as error:
            raise type(error)(f"{self.name}: {error}") from error
        if self._get("vocab.json") is None:
            self._get("tokenizer.json")
        self._get_weights()
        return config.parent

    def _get_weights(self) -> None:
        if self._get(_WEIGHTS) is not None:
            return
        index = self._get(_INDEX)
        if index is None:
            if self._repository.cache_only:
                raise InputError(self._repository.no_network(_WEIGHTS, self._copy_by_hand()))
            raise InputError(
                f"{self.name} on the Hub has no {_WEIGHTS}; other formats are pickles, which are "
                "never loaded: look for a revision or a copy in safetensors"
            )
        from pygpt.hub.stored import read_weight_map

        for file in sorted(set(read_weight_map(index).values())):
            if self._get(file) is None:
                raise InputError(f"{self.name}: {_INDEX} names {file}, which is not there")

    def _get(self, file: str) -> Path | None:
        return self._repository.get(file, self._copy_by_hand())

    def _copy_by_hand(self) -> str:
        name, revision = self.name, self._repository.revision
        flag = f" --revision {revision}" if revision else ""
        folder = name.split("/")[1]
        return (
            f"`hf download {name} config.json {_WEIGHTS} vocab.json{flag} --local-dir {folder}`, "
            "copy that folder here and give its path"
        )
