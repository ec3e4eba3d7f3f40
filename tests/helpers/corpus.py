"""Small corpora for tests, and what a dataset directory decodes to."""

import hashlib
import random
from pathlib import Path

import numpy as np

from pygpt.data.manifest import DatasetInfo
from pygpt.tokenizers.base import get_tokenizer


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def random_text(rng: random.Random, n_lines: int) -> str:
    words = ["def", "naïve", "漢字", "  ", "\t", "x = 1", "…", "👍", "", "it's", "\r"]
    return "\n".join(" ".join(rng.choices(words, k=rng.randrange(9))) for _ in range(n_lines))


def texts(directory: Path, name: str) -> list[str]:
    """Decode a split with nothing but what the directory says, document by document."""
    info = DatasetInfo.read(directory)
    tokenizer = get_tokenizer(info.tokenizer.name)
    split_info = info.splits[name]
    (shard,) = split_info.shards
    content = (directory / shard.file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == shard.sha256
    ids = np.frombuffer(content, dtype=info.dtype)
    assert len(ids) == shard.tokens == split_info.tokens
    ends = np.flatnonzero(ids == info.tokenizer.end_of_text)
    assert len(ends) == split_info.documents
    assert ends[-1] == len(ids) - 1
    documents = [tokenizer.decode(part[:-1]) for part in np.split(ids, ends + 1)[:-1]]
    assert sum(len(text.encode()) for text in documents) == split_info.bytes
    return documents
