"""Datasets from shards that exist: gives them a dataset.json, and joins datasets."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from pygpt.data.corpora import hub
from pygpt.data.inspection import report
from pygpt.data.manifest import FILE_NAME, DatasetInfo, ShardInfo, SplitInfo
from pygpt.data.split_names import shards_named
from pygpt.tokenizers.base import get_tokenizer
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.files import directory_beside

_SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class Shards:
    """Check ready shards of token ids, and write the dataset.json that says what they are."""

    source: Positional[str]
    """A directory with shards whose names have the word train or val, or OWNER/NAME of a dataset on
    the Hugging Face Hub, such as kjj0/fineweb10B-gpt2."""

    tokenizer: str = "gpt2"
    """Whose ids they are: gpt2 or bytes."""

    out: Path | None = None
    """Where shards of the Hub are downloaded to. None: data/NAME."""

    revision: str | None = None
    """Branch, tag or commit on the Hub. None: the newest."""

    max_files: int | None = None
    """Download only the first so many train shards; val shards come in addition."""

    def run(self) -> str:
        """Write it; what to do next.

        Raises:
            InputError: there are no shards, they have a dataset.json, or are not of the tokenizer.
        """
        directory, details = Path(self.source), None
        if not directory.is_dir():
            if self.source.count("/") != 1:
                raise InputError(f"{self.source} is neither a directory nor OWNER/NAME on the Hub")
            directory = self.out or Path("data") / self.source.split("/")[1]
            details = {"revision": self._download(directory)}
        if (directory / FILE_NAME).exists():
            raise InputError(
                f"{directory} has a {FILE_NAME} already, which "
                f"{cli.command('prepare', 'verify', directory)} checks"
            )
        info = describe(directory, self.tokenizer, self.source, details)
        info.write(directory)
        return report(info, directory, 0.0)

    def _download(self, directory: Path) -> str:
        dataset = hub.HubDataset(self.source, revision=self.revision)
        names = [
            name
            for name, _ in hub.list_files(self.source, dataset.commit, "")
            if name.endswith((".bin", ".npy")) and "/" not in name
        ]
        train = shards_named(names, "train")[: self.max_files]
        wanted = [*train, *shards_named(names, "val")]
        if not train:
            raise InputError(
                f"{self.source} on the Hub has no .bin or .npy shards with the word train"
            )
        for name in wanted:
            hub.download(self.source, dataset.commit, name, directory)
        return dataset.commit


def describe(
    directory: Path, tokenizer: str, source: str, details: dict[str, Any] | None
) -> DatasetInfo:
    """Read the shards of a directory without dataset.json, and describe them.

    Raises:
        InputError: see `pygpt.data.TokenDataset`.
    """
    from pygpt.data.dataset import TokenDataset  # maps the shards; imports the compiled core

    splits = {}
    dtypes = set()
    for name in _SPLITS:
        dataset = TokenDataset(directory, name, tokenizer=tokenizer)
        shards = tuple(
            ShardInfo(Path(file.path).name, file.n_tokens, scan.sha256)
            for file, scan in zip(dataset.shards.files, dataset.scans, strict=True)
        )
        dtypes |= {file.dtype for file in dataset.shards.files}
        splits[name] = SplitInfo(*_count(dataset, tokenizer), shards)
    if len(dtypes) > 1:
        raise InputError(f"{directory} has shards of uint16 and of uint32; make them of one type")
    return DatasetInfo(get_tokenizer(tokenizer).info, dtypes.pop(), splits, source, details)


def _count(dataset: Any, tokenizer: str) -> tuple[int, int]:
    """Documents, as ends of text (one at least), and UTF-8 bytes of the text."""
    encoder = get_tokenizer(tokenizer)
    token_bytes = encoder.token_bytes()
    documents = n_bytes = 0
    step = 1 << 22
    for start in range(0, len(dataset), step):
        ids = dataset.window(start, min(step, len(dataset) - start))
        documents += int(np.count_nonzero(ids == encoder.info.end_of_text))
        n_bytes += int(token_bytes[ids].sum())
    return max(documents, 1), n_bytes


@dataclasses.dataclass(frozen=True)
class Merge:
    """Join datasets, such as those of several ranks, into one; shards are linked, or copied."""

    directories: Positional[tuple[Path, ...]]
    """The dataset directories, in the order they are to be joined."""

    out: Path
    """The directory to make; it must not exist yet."""

    def run(self) -> str:
        """Write it; what to do next.

        Raises:
            InputError: the datasets are of different tokenizers or types, or `out` exists.
        """
        if len(self.directories) < 2:
            raise InputError("merge needs two dataset directories or more")
        if os.path.lexists(self.out):
            raise InputError(f"{self.out} exists; take another --out")
        infos = [DatasetInfo.read(directory) for directory in self.directories]
        for directory, info in zip(self.directories, infos, strict=True):
            _check_joins(self.directories[0], infos[0], directory, info)
        with directory_beside(self.out, keep=False) as partial:
            splits = {name: self._join(partial, name, infos) for name in infos[0].splits}
            sources = ", ".join(dict.fromkeys(info.source for info in infos))
            details = {"merged": [info.details or {} for info in infos]}
            merged = DatasetInfo(infos[0].tokenizer, infos[0].dtype, splits, sources, details)
            merged.write(partial)
        return report(merged, self.out, 0.0)

    def _join(self, partial: Path, split: str, infos: list[DatasetInfo]) -> SplitInfo:
        parts = [info.splits[split] for info in infos]
        masks = None
        if parts[0].loss_mask is not None:
            masks = self._linked(partial, f"mask-{split}", [part.loss_mask or () for part in parts])
        return SplitInfo(
            sum(p.documents for p in parts),
            sum(p.bytes for p in parts),
            self._linked(partial, split, [part.shards for part in parts]),
            masks,
        )

    def _linked(
        self, partial: Path, prefix: str, parts: Sequence[Sequence[ShardInfo]]
    ) -> tuple[ShardInfo, ...]:
        """The shards of each directory, under numbered names in `partial`."""
        linked: list[ShardInfo] = []
        for directory, shards in zip(self.directories, parts, strict=True):
            for shard in shards:
                name = f"{prefix}-{len(linked):05}{Path(shard.file).suffix}"
                _link(directory / shard.file, partial / name)
                linked.append(dataclasses.replace(shard, file=name))
        return tuple(linked)


def _check_joins(first: Path, expected: DatasetInfo, path: Path, info: DatasetInfo) -> None:
    def kind(info: DatasetInfo) -> tuple[TokenizerInfo, str, set[str]]:
        return info.tokenizer, info.dtype, set(info.splits)

    if kind(info) != kind(expected):
        raise InputError(
            f"{path} ({info.tokenizer.name}, {info.dtype}, {', '.join(info.splits)}) and {first} "
            f"({expected.tokenizer.name}, {expected.dtype}, {', '.join(expected.splits)}) can't be "
            "joined: their ids or splits differ"
        )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise InputError(f"{source} is missing; verify that dataset") from error
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
