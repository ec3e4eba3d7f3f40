"""How far a preparation is: on the disk, to go on from it, and as a bar on the terminal."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygpt.data.corpora.parts import Part
from pygpt.data.encoding import DIGEST_BYTES, Position
from pygpt.data.manifest import ShardInfo
from pygpt.data.shards import SplitState
from pygpt.utils.errors import InputError
from pygpt.utils.files import replace_text
from pygpt.utils.json_file import build, of_type, parse
from pygpt.utils.progress import ProgressBar

_FILE_NAME = "progress.json"
_HASHES_NAME = "hashes.bin"


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is on the disk of a preparation that has not ended."""

    identity: dict[str, Any]
    """Corpus and options: only the same preparation can go on."""
    position: Position = dataclasses.field(default_factory=Position)
    splits: dict[str, SplitState] = dataclasses.field(
        default_factory=lambda: {"train": SplitState(), "val": SplitState()}
    )
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Reason → records."""
    n_hashes: int = 0

    @classmethod
    def read(cls, directory: Path, identity: dict[str, Any]) -> Progress:
        """Where to go on; the start, if nothing is recorded.

        Raises:
            InputError: the record is damaged, or of another corpus or of other options.
        """
        path = directory / _FILE_NAME
        if not path.exists():
            return cls(identity)
        try:
            before = cls._from_fields(parse(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged ({error}); delete {directory} to start again"
            ) from error
        names = before.identity.keys() | identity.keys()
        differing = sorted(n for n in names if before.identity.get(n) != identity.get(n))
        if differing:
            name = differing[0]
            raise InputError(
                f"{directory} holds an unfinished preparation with {name} "
                f"{before.identity.get(name)!r}, and now it is {identity.get(name)!r}; give the "
                "same options to go on, take another --out, or delete it to start again"
            )
        return before

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> Progress:
        given = {name: fields[name] for name in ("identity", "dropped", "n_hashes")}
        part, pieces = of_type("position", fields["position"], list[int])
        splits = {name: _split_state(split) for name, split in fields["splits"].items()}
        return build(cls, given | {"position": Position(part, pieces), "splits": splits})

    @staticmethod
    def documents_in(directory: Path) -> int:
        """Documents that the same preparation would go on behind; 0 without a record."""
        path = directory / _FILE_NAME
        if not path.exists():
            return 0
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return sum(split["documents"] for split in splits.values())

    def write(self, directory: Path) -> None:
        """Record it, flushed and renamed into place."""
        replace_text(directory / _FILE_NAME, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @staticmethod
    def remove(directory: Path) -> None:
        """Delete the record: the preparation has ended."""
        for name in (_FILE_NAME, _HASHES_NAME):
            (directory / name).unlink(missing_ok=True)


def _split_state(fields: dict[str, Any]) -> SplitState:
    shards = tuple(build(ShardInfo, shard) for shard in fields["shards"])
    return build(SplitState, {**fields, "shards": shards})


class Hashes:
    """The texts seen so far, by their hash; about 100 bytes of memory each."""

    def __init__(self, directory: Path, n_hashes: int, *, enabled: bool) -> None:
        self._seen: set[bytes] = set()
        self._file = None
        if not enabled:
            return
        path = directory / _HASHES_NAME
        path.touch()
        self._file = path.open("r+b")
        data = self._file.read(n_hashes * DIGEST_BYTES)
        self._seen = {data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES)}
        self._file.truncate(n_hashes * DIGEST_BYTES)

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, digest: bytes) -> bool:
        """Remember a text; False if it was seen before."""
        if digest in self._seen:
            return False
        self._seen.add(digest)
        assert self._file
        self._file.write(digest)
        return True

    def commit(self) -> int:
        """Flush to the disk; the number of hashes."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return len(self._seen)


class CorpusBar(ProgressBar):
    """The bar of `pygpt.utils.progress` with documents, tokens and tokens per second."""

    def __init__(self, parts: Sequence[Part], start: Position) -> None:
        self._parts, self._part = parts, start.part
        self._before = sum(part.n_bytes for part in parts[: start.part])
        self._tokens: int | None = None
        self._since = time.perf_counter()
        total = sum(part.n_bytes for part in parts)
        super().__init__("encoding", total, unit="bytes", completed=self._before)

    def show(self, position: Position, documents: int, tokens: int) -> None:
        """Show where the writer is. The bar moves part by part."""
        if self._tokens is None:
            self._tokens = tokens
        while self._part < position.part:
            self._before += self._parts[self._part].n_bytes
            self._part += 1
        rate = (tokens - self._tokens) / max(time.perf_counter() - self._since, 1e-9)
        text = f"{documents:,} documents, {tokens:,} tokens, {rate:,.0f} tokens/s"
        self.update(self._before, text)
