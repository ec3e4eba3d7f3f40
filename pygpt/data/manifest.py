"""``dataset.json``: what a dataset directory holds, written by prepare and read by everything else.

::

    {
      "format": 1,
      "tokenizer": {"name": "gpt2", "n_vocab": 50257, "end_of_text": 50256, "hash": "…"},
      "dtype": "uint16",
      "splits": {
        "train": {
          "documents": 698, "bytes": 11870345,
          "shards": [{"file": "train.bin", "tokens": 5104123, "sha256": "…"}]
        },
        "val": {…}
      },
      "source": "the standard library of Python 3.11.7"
    }
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.files import replace_text
from pygpt.utils.json_file import build, parse

FILE_NAME = "dataset.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One file of token ids."""

    file: str
    tokens: int
    sha256: str
    first: str | None = None
    """Where its first document starts: PART:RECORD, counted from 0. None if it was not recorded."""
    last: str | None = None
    """Where its last document comes from."""

    def __post_init__(self) -> None:
        if self.file in ("", ".", "..") or set(self.file) & {"/", "\0"}:
            raise ValueError(f"{self.file!r:.60} is not the name of a file beside it")
        os.fsencode(self.file)
        if self.tokens < 1:
            raise ValueError(f"{self.file} is said to have {self.tokens} tokens")


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """The shards of one split, in order, and the text they came from."""

    documents: int
    bytes: int
    """UTF-8 bytes of the text, end-of-text not counted."""
    shards: tuple[ShardInfo, ...]
    loss_mask: tuple[ShardInfo, ...] | None = None
    """Of dialogues: a byte for each id, 1 where it is a target; None where every id is."""

    @property
    def tokens(self) -> int:
        """Ids over all shards, end-of-text included."""
        return sum(shard.tokens for shard in self.shards)

    def __post_init__(self) -> None:
        if self.documents < 0 or self.bytes < 0:
            raise ValueError("a split is said to have fewer than 0 documents or bytes")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The whole of a ``dataset.json``."""

    tokenizer: TokenizerInfo
    dtype: str
    splits: dict[str, SplitInfo]
    source: str
    details: dict[str, Any] | None = None
    """How it was prepared: options, revision, counts of dropped documents."""

    def __post_init__(self) -> None:
        if self.dtype not in ("uint16", "uint32"):
            raise ValueError(f"dtype {self.dtype!r:.60} is neither uint16 nor uint32")

    def write(self, directory: Path) -> None:
        """Write ``directory/dataset.json``, flushed and renamed into place."""
        text = json.dumps({"format": FORMAT, **_without_none(dataclasses.asdict(self))}, indent=2)
        replace_text(directory / FILE_NAME, text + "\n")

    @classmethod
    def read(cls, directory: Path) -> DatasetInfo:
        """Read ``directory/dataset.json``.

        Raises:
            InputError: the file can't be read, is not valid JSON, or of another format.
        """
        path = directory / FILE_NAME
        if not path.exists():
            raise InputError(f"{directory} has no {FILE_NAME}: it is not a prepared dataset")
        try:
            fields = parse(path.read_text(encoding="utf-8-sig"))
            if fields.get("format") != FORMAT:
                raise InputError(
                    f"{path} has format {fields.get('format')!r} and this pygpt reads {FORMAT}; "
                    "prepare the dataset again"
                )
            return cls._from_fields(fields)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged ({type(error).__name__}: {error}); prepare the dataset again"
            ) from error

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> DatasetInfo:
        splits = {name: _split(split) for name, split in fields["splits"].items()}
        known = {"dtype", "source", "details"} & fields.keys()
        return build(
            cls,
            {
                "tokenizer": build(TokenizerInfo, fields["tokenizer"]),
                "splits": splits,
                **{name: fields[name] for name in known},
            },
        )


def _split(fields: dict[str, Any]) -> SplitInfo:
    known = {"documents", "bytes"} & fields.keys()
    given = {name: fields[name] for name in known} | {"shards": _shards(fields["shards"])}
    if "loss_mask" in fields:
        given["loss_mask"] = _shards(fields["loss_mask"])
    return build(SplitInfo, given)


def _shards(fields: list[dict[str, Any]]) -> tuple[ShardInfo, ...]:
    return tuple(build(ShardInfo, shard) for shard in fields)


def _without_none(value: Any) -> Any:
    """Leave out fields that are None, at any depth."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
