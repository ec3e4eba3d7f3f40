"""Datasets of the Hugging Face Hub: any by its id, and OpenWebText and FineWeb by name.

huggingface_hub lists the files of a revision and downloads them into its cache (``HF_HOME``); an
interrupted download goes on. No code of a repository is run: only parquet and JSON lines are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pygpt.data.corpora.compressed import SUFFIXES, needed
from pygpt.data.corpora.jsonl import read_json_lines
from pygpt.data.corpora.parquet import row_groups
from pygpt.data.corpora.parts import Part, Records, Unreadable
from pygpt.utils.errors import InputError

_JSON_LINES = tuple(f".{kind}{suffix}" for kind in ("jsonl", "json") for suffix in SUFFIXES)

_MEANINGS = {
    401: "no such dataset, or it needs a login: check the name; `hf auth login`",
    403: "your account has no access: request it on the dataset's page",
    404: "no such dataset or revision, or it is private: check the name, or `hf auth login`",
    429: "too many requests: wait some minutes and give the same command again, which goes on",
}


@dataclasses.dataclass(frozen=True)
class HubDataset(Records):
    """Parquet or JSON-lines files of a dataset on the Hub; each file is a part.

    Args:
        repo: such as "HuggingFaceFW/fineweb".
        folder: only files below it.
        revision: branch, tag or commit; None takes the newest commit.
        text_column: column or field of the text.
        max_files: only so many files, the first by name.
    """

    repo: str
    folder: str = ""
    revision: str | None = None
    text_column: str = "text"
    max_files: int | None = None

    @property
    def source(self) -> str:
        """See `Records`."""
        return f"{self.repo}/{self.folder}".rstrip("/")

    @property
    def details(self) -> dict[str, Any]:
        """See `Records`."""
        return {"revision": self.commit, "text_column": self.text_column}

    @functools.cached_property
    def commit(self) -> str:
        """The commit that `revision` means now."""
        hub = needed("huggingface_hub")
        with explained(self.repo):
            info = hub.HfApi().dataset_info(self.repo, revision=self.revision)
        return str(info.sha)

    def parts(self) -> Sequence[Part]:
        """See `Records`. Downloads nothing yet."""
        files = list_files(self.repo, self.commit, self.folder)
        wanted = [f for f in files if f[0].endswith(".parquet")]
        wanted = wanted or [f for f in files if f[0].endswith(_JSON_LINES)]
        if not wanted:
            raise InputError(f"{self.source} on the Hub has neither parquet nor JSON lines files")
        return [self._part(*each) for each in wanted[: self.max_files]]

    def _part(self, name: str, n_bytes: int) -> Part:
        return Part(name, n_bytes, lambda: self._read(name))

    def _read(self, name: str) -> Iterator[str | bytes | Unreadable]:
        path = download(self.repo, self.commit, name)
        if name.endswith(".parquet"):
            for part in row_groups(path, self.text_column):
                yield from part.read()
        else:
            yield from read_json_lines(path, self.text_column)


def openwebtext(revision: str | None, max_files: int | None) -> HubDataset:
    """OpenWebText (Gokaslan and Cohen 2019): 8 million documents, 9 billion GPT-2 tokens."""
    return HubDataset("Skylion007/openwebtext", "", revision, max_files=max_files)


def fineweb(
    name: str,
    dump: str | None,
    sample: str | None,
    revision: str | None,
    max_files: int | None,
) -> HubDataset:
    """FineWeb or FineWeb-Edu (Penedo et al. 2024): one crawl, or one of the published samples.

    Args:
        name: "fineweb" or "fineweb-edu".
        dump: a crawl, such as "CC-MAIN-2013-20".
        sample: such as "10BT".
        revision: see `HubDataset`.
        max_files: see `HubDataset`.

    Raises:
        InputError: not exactly one of `dump` and `sample`.
    """
    if (dump is None) == (sample is None):
        raise InputError(
            f"{name} is trillions of tokens: give one of --sample 10BT (or 100BT, 350BT) and "
            "--dump CC-MAIN-2013-20 (or another crawl)"
        )
    folder = f"data/{dump}" if dump else f"sample/{sample}"
    return HubDataset(f"HuggingFaceFW/{name}", folder, revision, max_files=max_files)


def list_files(repo: str, commit: str, folder: str) -> list[tuple[str, int]]:
    """Path and bytes of every file below a folder of a dataset, sorted.

    Raises:
        InputError: no network, no access, or no such folder.
    """
    hub = needed("huggingface_hub")
    with explained(f"{repo}/{folder}".rstrip("/")):
        tree = hub.HfApi().list_repo_tree(
            repo, folder or None, recursive=True, revision=commit, repo_type="dataset"
        )
        return sorted((entry.path, entry.size) for entry in tree if hasattr(entry, "size"))


def download(repo: str, commit: str, name: str, directory: Path | None = None) -> Path:
    """Fetch one file into the cache of huggingface_hub, or into a directory.

    Raises:
        InputError: no network, no access, or no such file.
    """
    hub = needed("huggingface_hub")
    with explained(f"{name} of {repo}"):
        return Path(
            hub.hf_hub_download(
                repo, name, repo_type="dataset", revision=commit, local_dir=directory
            )
        )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into InputError that says what to do."""
    errors = needed("huggingface_hub.errors")
    # huggingface_hub has had three HTTP clients; only the one that it imported can raise.
    clients = {"httpx2": "HTTPError", "httpx": "HTTPError", "requests": "RequestException"}
    http_errors = [
        getattr(sys.modules[client], error)
        for client, error in clients.items()
        if client in sys.modules
    ]
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        meaning = _MEANINGS.get(status or 0, "try again later")
        raise InputError(f"the Hub refused {what} with status {status}: {meaning}") from error
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        ConnectionError,
        TimeoutError,
        *http_errors,
    ) as error:
        raise InputError(
            f"no network, or offline mode, and {what} is not in the cache. Where there is network, "
            "run `hf download REPO --repo-type dataset --local-dir FOLDER`, copy the folder here, "
            "and give its files: python -m pygpt.prepare parquet FOLDER/*.parquet"
        ) from error
