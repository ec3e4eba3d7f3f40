"""From the words of ``python -m pygpt.prepare`` to a corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pygpt.data.corpora import hub
from pygpt.data.corpora.base import Corpus
from pygpt.data.corpora.jsonl import JsonLines
from pygpt.data.corpora.parquet import Parquet
from pygpt.data.corpora.parts import Part, Records
from pygpt.data.corpora.shakespeare import Shakespeare
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.corpora.text import TextFiles
from pygpt.data.options import Options
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.suggest import did_you_mean

_WITH_PATHS = ("text", "jsonl", "parquet")


@dataclasses.dataclass(frozen=True)
class Share(Records):
    """Every `world`-th part of a corpus, from part `rank` on."""

    whole: Records
    rank: int
    world: int

    @property
    def source(self) -> str:
        """See `Records`."""
        return self.whole.source

    @property
    def details(self) -> dict[str, Any]:
        """See `Records`."""
        return {**self.whole.details, "rank": self.rank, "world": self.world}

    def parts(self) -> Sequence[Part]:
        """See `Records`."""
        parts = self.whole.parts()[self.rank :: self.world]
        if not parts:
            raise InputError(
                f"--rank {self.rank} of --world {self.world} gets nothing of {self.source}, which "
                f"has {len(self.whole.parts())} parts; take a smaller --world"
            )
        return parts


def select(options: Options) -> Corpus | Records:
    """The corpus that the options name.

    Raises:
        InputError: an unknown name, or words that don't fit it.
    """
    source = options.source
    if not 0 <= options.rank < options.world:
        raise InputError(f"--rank {options.rank} is not in 0 to --world {options.world} less 1")
    if options.max_files is not None and options.max_files < 1:
        raise InputError(f"--max-files {options.max_files} is not 1 or more")
    _check_paths(options)
    corpus = _corpus(options)
    if options.world == 1:
        return corpus
    if not isinstance(corpus, Records):
        raise InputError(f"--rank and --world divide jsonl, parquet and the Hub, not {source}")
    return Share(corpus, options.rank, options.world)


def _check_paths(options: Options) -> None:
    source = options.source
    if source in _WITH_PATHS and not options.paths:
        what = "files or folders" if source == "text" else "files"
        raise InputError(f"{source} needs {what}: python -m pygpt.prepare {source} PATH…")
    if source not in _WITH_PATHS and options.paths:
        raise InputError(
            f"{source} takes no paths, and there is {options.paths[0]}; to encode files, say "
            f"{cli.command('prepare', 'text', options.paths[0])}"
        )
    only: dict[str, tuple[object, tuple[str, ...]]] = {
        "--file": (options.file, ("shakespeare",)),
        "--dump": (options.dump, ("fineweb", "fineweb-edu")),
        "--sample": (options.sample, ("fineweb", "fineweb-edu")),
    }
    for flag, (value, sources) in only.items():
        if value is not None and source not in sources:
            raise InputError(f"{flag} belongs to {' and '.join(sources)}, not to {source}")


def _corpus(options: Options) -> Corpus | Records:
    source, column = options.source, options.text_column
    revision, max_files = options.revision, options.max_files
    files = options.paths[:max_files]
    by_name: dict[str, Callable[[], Corpus | Records]] = {
        "stdlib": Stdlib,
        "text": lambda: TextFiles(options.paths),
        "jsonl": lambda: JsonLines(files, column),
        "parquet": lambda: Parquet(files, column),
        "shakespeare": lambda: Shakespeare(options.file),
        "openwebtext": lambda: hub.openwebtext(revision, max_files),
        "fineweb": lambda: hub.fineweb(source, options.dump, options.sample, revision, max_files),
        "fineweb-edu": lambda: hub.fineweb(
            source, options.dump, options.sample, revision, max_files
        ),
    }
    if source in by_name:
        return by_name[source]()
    if Path(source).exists():
        raise InputError(
            f"{source} is a path: say what it holds, such as "
            f"{cli.command('prepare', 'text', source)}"
        )
    if source.count("/") == 1:
        return hub.HubDataset(source, "", revision, column, max_files)
    names = [*by_name, "shards"]
    raise InputError(
        f"no corpus {source!r}: {did_you_mean(source, names)}; OWNER/NAME is a dataset of the Hub"
    )
