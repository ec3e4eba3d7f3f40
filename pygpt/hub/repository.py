"""One file of a repository on the Hugging Face Hub, through huggingface_hub and its cache.

``HF_HOME`` is the cache, which other programs share; ``HF_HUB_OFFLINE=1`` reads from there alone.
Nothing here imports torch.
"""

from __future__ import annotations

import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


class Repository:
    """A model or a dataset on the Hub.

    Args:
        name: OWNER/NAME.
        revision: a branch, tag or commit; None is the main branch.
        kind: which of the two.

    Raises:
        InputError: huggingface_hub is not installed.
    """

    def __init__(
        self, name: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model"
    ) -> None:
        self.name = name
        self.revision = revision
        self.kind = kind
        self._download = _import_download()
        self.cache_only = not _hub_is_reachable()
        self._found_any = False

    def get(self, file: str, copy_by_hand: str) -> Path | None:
        """The local path of a file; None if the repository has none of this name.

        With the cache alone, a file that is not in it is None too, unless no file was found
        yet: then nothing of the repository is there.

        Args:
            file: its path in the repository.
            copy_by_hand: for the error message, how to get the files on a machine that has network.

        Raises:
            InputError: the Hub or the repository can't be reached, or has no such revision.
        """
        from huggingface_hub import errors

        try:
            path = self._download(
                self.name,
                file,
                repo_type=self.kind,
                revision=self.revision,
                local_files_only=self.cache_only,
            )
        except errors.LocalEntryNotFoundError as error:
            if self.cache_only and self._found_any:
                return None
            raise InputError(self.no_network(file, copy_by_hand)) from error
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
                f"the Hub has no {self.kind} {self.name!r} that you may read, and there is no "
                "directory of this name"
            ) from error
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{file} of {self.name} can't be downloaded: {reason}") from error
        self._found_any = True
        return Path(path)

    def no_network(self, file: str, copy_by_hand: str) -> str:
        """The message for a file that only the network could bring."""
        return (
            f"no network, or offline mode, and {file} of {self.name} is not in the cache; where "
            f"there is network run {copy_by_hand}"
        )


def _import_download() -> Callable[..., str]:
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise InputError(
            "the Hub is read by huggingface_hub, which is not installed: "
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
