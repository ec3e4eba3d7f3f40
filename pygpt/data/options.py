"""The options of ``python -m pygpt.prepare SOURCE``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pygpt.data.selection import Limits


@dataclasses.dataclass(frozen=True)
class Options:
    """Encode text into a dataset directory: shards of token ids and dataset.json.

    Files of text are one document each, and are divided into train and val by a hash of their
    names and the seed. Records (jsonl, parquet, the Hub) are one document each, and are divided by
    a hash of their text; they are written in shards, and after Ctrl-C or a crash the same command
    goes on. Other commands: chat FILE… --out DIR for dialogues, verify DIR, show DIR --document N,
    merge DIR… --out DIR, shards DIR; each has its own --help.
    """

    source: Positional[str] = "stdlib"
    """What to encode. stdlib: the standard library of this Python without its tests, about 12 MB,
    nothing is downloaded. text: the UTF-8 files and folders that follow; in folders, hidden and
    binary files and links to folders are left out. jsonl, parquet: the files that follow.
    shakespeare; openwebtext; fineweb and fineweb-edu with --dump or --sample; OWNER/NAME: a dataset
    of the Hugging Face Hub."""

    paths: Positional[tuple[Path, ...]] = ()
    """Files and folders, after text, jsonl or parquet."""

    file: Path | None = None
    """For shakespeare: the text. None: download it."""

    text_column: str = "text"
    """Column or field that holds the text."""

    dump: str | None = None
    """For fineweb: the crawl, such as CC-MAIN-2013-20."""

    sample: str | None = None
    """For fineweb: the sample, such as 10BT."""

    revision: str | None = None
    """For the Hub: branch, tag or commit. None: the newest."""

    max_files: int | None = None
    """Read only the first so many files."""

    rank: int = 0
    """Records only: which share of the parts to encode, from 0."""

    world: int = 1
    """Records only: number of shares; merge joins what they make."""

    out: Path | None = None
    """The directory to make; it must not exist yet. None: data/SOURCE-TOKENIZER."""

    tokenizer: str = "gpt2"
    """gpt2 (50,257 ids), bytes (257 ids) or chars (the characters of the text)."""

    val_fraction: float = 0.05
    """Share of documents that goes into the val split, between 0 and 1."""

    seed: int = 0
    """Decides which documents those are."""

    workers: int | None = None
    """Threads that encode. None: one for each CPU that this process may use."""

    shard_tokens: int | None = None
    """Tokens of a shard. None: 100 million for records, one file for each split for the others."""

    val_tokens: int | None = None
    """Records only: size at which the val split is full. None: 10 million."""

    max_tokens: int | None = None
    """Stop after the document that reaches so many tokens."""

    min_bytes: int | None = None
    """Records only: drop shorter documents."""

    max_bytes: int | None = None
    """Records only: drop longer documents."""

    dedup: Literal["none", "exact"] = "none"
    """Records only: exact drops documents whose text is that of an earlier one."""

    skip_bad: bool = False
    """Leave out and count records that can't be used, instead of stopping at the first."""

    def limits(self, in_shards: bool) -> Limits:
        """The limits, with the defaults of a corpus that is written in shards or is not."""
        shard_tokens, val_tokens = self.shard_tokens, self.val_tokens
        if in_shards:
            shard_tokens = 100_000_000 if shard_tokens is None else shard_tokens
            val_tokens = 10_000_000 if val_tokens is None else val_tokens
        return Limits(
            shard_tokens=shard_tokens,
            val_tokens=val_tokens,
            max_tokens=self.max_tokens,
            min_bytes=self.min_bytes,
            max_bytes=self.max_bytes,
            dedup=self.dedup == "exact",
            skip_bad=self.skip_bad,
        )
