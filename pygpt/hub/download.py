"""Where a model's name leads: a directory, or the files of a model on the Hugging Face Hub.

Of a model on the Hub only what pygpt reads is fetched: ``config.json``, the weights in safetensors
and the vocabulary. The library huggingface_hub keeps them in its cache (``HF_HOME``), which
other programs share; ``HF_HUB_OFFLINE=1`` reads from there alone. Nothing here imports torch.
"""

from __future__ import annotations

import logging
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pygpt.hub import layout
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import read_object
from pygpt.utils.suggest import did_you_mean

logger = logging.getLogger(__name__)

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
    return _Repository(repository, revision).fetch()


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


class _Repository:
    """One model on the Hub."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name = name
        self.revision = revision
        self._download = _import_download()
        self._cache_only = not _hub_is_reachable()

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
            if self._cache_only:
                raise InputError(self._no_network(_WEIGHTS))
            raise InputError(
                f"{self.name} on the Hub has no {_WEIGHTS}; other formats are pickles, which are "
                "never loaded: look for a revision or a copy in safetensors"
            )
        from pygpt.hub.stored import read_weight_map

        for file in sorted(set(read_weight_map(index).values())):
            if self._get(file) is None:
                raise InputError(f"{self.name}: {_INDEX} names {file}, which is not there")

    def _get(self, file: str) -> Path | None:
        """The local path of a file; None if the repository has none of this name."""
        from huggingface_hub import errors

        try:
            return Path(
                self._download(
                    self.name, file, revision=self.revision, local_files_only=self._cache_only
                )
            )
        except errors.LocalEntryNotFoundError as error:
            if self._cache_only and file != "config.json":
                return None
            raise InputError(self._no_network(file)) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise InputError(
                f"{self.name} asks for consent: accept its terms on its page and log in with "
                "`hf auth login`"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise InputError(f"{self.name} has no revision {self.revision!r}") from error
        except errors.RepositoryNotFoundError as error:
            raise InputError(
                f"the Hub has no model {self.name!r} that you may read, and there is no directory "
                f"of this name; names without an owner: {', '.join(KNOWN)}"
            ) from error
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{file} of {self.name} can't be downloaded: {reason}") from error

    def _no_network(self, file: str) -> str:
        revision = f" --revision {self.revision}" if self.revision else ""
        folder = self.name.split("/")[1]
        return (
            f"no network, or offline mode, and {file} of {self.name} is not in the cache; where "
            f"there is network run `hf download {self.name} config.json {_WEIGHTS} vocab.json"
            f"{revision} --local-dir {folder}`, copy that folder here and give its path"
        )


def _import_download() -> Callable[..., str]:
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise InputError(
            "models on the Hub are fetched by huggingface_hub, which is not installed: "
            'pip install "pygpt-trainer[hub]"'
        ) from error
    return hf_hub_download


def _hub_is_reachable() -> bool:
    """Whether the Hub's host has an address; without one the library would try for 20 seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    if endpoint.scheme in urllib.request.getproxies():
        return True  # the proxy looks names up
    try:
        socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)
    except OSError:
        logger.info("no network: looking in the cache %s", constants.HF_HUB_CACHE)
        return False
    return True
