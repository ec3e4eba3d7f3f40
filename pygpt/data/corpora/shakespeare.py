"""Tiny Shakespeare (Karpathy 2015): 1.1 MB of plays, cut as nanoGPT's shakespeare_char cuts it."""

from __future__ import annotations

import dataclasses
import hashlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from pygpt.data.corpora.parts import Part, Records
from pygpt.utils.errors import InputError
from pygpt.utils.files import cache_directory, replacing

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclasses.dataclass(frozen=True)
class Shakespeare(Records):
    """One text, whose last tenth of characters is the val split.

    With the tokenizer "chars" the ids are nanoGPT's, with end-of-text behind each split.

    Args:
        file: the text; None takes it from the cache, or downloads it.
    """

    file: Path | None = None

    @property
    def source(self) -> str:
        """See `Records`."""
        return str(self.file) if self.file else "Tiny Shakespeare"

    def parts(self) -> Sequence[Part]:
        """See `Records`: the train text and the val text."""
        path = self.file or _download()
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 ({error}); convert it with iconv") from error
        cut = int(len(text) * 0.9)
        if cut == 0:
            raise InputError(f"{path} is too short to cut into train and val")
        pieces = {"train": text[:cut], "val": text[cut:]}
        return [
            Part(f"{path.name}:{name}", len(piece), [piece].__iter__, name)
            for name, piece in pieces.items()
        ]


def _download() -> Path:
    path = cache_directory() / "corpora" / "tinyshakespeare.txt"
    if path.exists():
        return path
    try:
        with urllib.request.urlopen(URL, timeout=30) as response:
            content = response.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise InputError(
            f"Tiny Shakespeare can't be downloaded ({error}); where there is network, get {URL} "
            "and give it: python -m pygpt.prepare shakespeare --file input.txt"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{URL} is not the text it was; give a copy with --file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path
