"""Turns text into a dataset directory that ``python -m pygpt.train --data`` reads.

::

    python -m pygpt.prepare                                 # this Python's standard library
    python -m pygpt.prepare text books/ notes.txt --out data/books
    python -m pygpt.prepare --tokenizer bytes
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pygpt.data import writer
from pygpt.data.corpora.base import Corpus
from pygpt.data.corpora.stdlib import Stdlib
from pygpt.data.corpora.text import TextFiles
from pygpt.data.manifest import DatasetInfo
from pygpt.utils import cli
from pygpt.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Encode text into a dataset directory: train.bin, val.bin and dataset.json.

    One file is one document, with end-of-text behind it. Documents are divided into train and val
    by a hash of their names and the seed, so that files added later move none of the others. A
    single document is cut in two, the val text last.
    """

    source: Positional[Literal["stdlib", "text"]] = "stdlib"
    """What to encode. stdlib: the standard library of this Python without its tests, about 12 MB,
    nothing is downloaded. text: the UTF-8 files and folders that follow; in folders, hidden and
    binary files and links to folders are left out."""

    paths: Positional[tuple[Path, ...]] = ()
    """Files and folders, after text."""

    out: Path | None = None
    """The directory to make; it must not exist yet. None: data/SOURCE-TOKENIZER."""

    tokenizer: str = "gpt2"
    """gpt2 (50,257 ids) or bytes (257 ids)."""

    val_fraction: float = 0.05
    """Share of documents that goes into the val split, between 0 and 1."""

    seed: int = 0
    """Decides which documents those are."""

    workers: int | None = None
    """Threads that encode. None: one for each CPU that this process may use."""

    def corpus(self) -> Corpus:
        """What `source` and `paths` name.

        Raises:
            InputError: text without paths, or paths without text.
        """
        if self.source == "stdlib":
            if self.paths:
                raise InputError(
                    f"stdlib takes no paths, and there is {self.paths[0]}; to encode files, say "
                    f"{cli.command('prepare', 'text', self.paths[0])}"
                )
            return Stdlib()
        if not self.paths:
            raise InputError("text needs files or folders: python -m pygpt.prepare text PATH…")
        return TextFiles(self.paths)


def report(info: DatasetInfo, out: Path, seconds: float) -> str:
    """What was prepared, split by split, and what to do next."""
    lines = [
        f"prepared {info.source} in {seconds:.1f} s",
        "",
        f"{'split':<6}{'documents':>11}{'bytes':>16}{'tokens':>16}{'bytes/token':>13}",
    ]
    for name, split in info.splits.items():
        text_tokens = split.tokens - split.documents  # end-of-text stands for no bytes
        lines.append(
            f"{name:<6}{split.documents:>11,}{split.bytes:>16,}{split.tokens:>16,}"
            f"{split.bytes / text_tokens:>13.3f}"
        )
    return "\n".join([*lines, "", f"next: {cli.command('train', '--data', out)}"])


def main() -> None:
    """Run ``python -m pygpt.prepare``."""
    options = cli.parse(Options, prog="python -m pygpt.prepare")
    out = options.out or Path("data") / f"{options.source}-{options.tokenizer}"
    start = time.perf_counter()
    info = writer.prepare(
        options.corpus(),
        out,
        options.tokenizer,
        val_fraction=options.val_fraction,
        seed=options.seed,
        workers=options.workers,
    )
    print(report(info, out, time.perf_counter() - start))


if __name__ == "__main__":
    cli.run(main)
