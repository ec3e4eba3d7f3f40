"""Files that may be compressed: gz, bz2, xz, zst, by their suffix."""

from __future__ import annotations

import contextlib
import importlib
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

from pygpt.utils.errors import InputError

SUFFIXES = ("", ".gz", ".bz2", ".xz", ".zst")


def open_compressed(path: Path) -> IO[bytes]:
    """A file's decompressed bytes.

    Raises:
        InputError: zst without the package zstandard.
        OSError: the file can't be opened.
    """
    modules = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "zstandard"}
    module = needed(modules.get(path.suffix, "builtins"))
    opened: IO[bytes] = module.open(path, "rb")
    return opened


def read_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged or truncated file raises."""
    errors: list[type[Exception]] = [OSError, EOFError, zlib.error, lzma.LZMAError]
    with contextlib.suppress(ImportError):
        errors.append(importlib.import_module("zstandard").ZstdError)
    return tuple(errors)


def needed(module: str) -> Any:
    """Import a package of the extra "corpora".

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {module.split('.', maxsplit=1)[0]} is not installed: "
            'pip install "pygpt-trainer[corpora]"'
        ) from error


def check_files(files: tuple[Path, ...]) -> None:
    """Refuse what is not a readable file, before any work."""
    for path in files:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}; give files") from error
