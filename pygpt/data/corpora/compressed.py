"""Files that may be compressed: gz, bz2, xz, zst, by their suffix."""

from __future__ import annotations

import contextlib
import importlib
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

from pygpt.utils.errors import InputError

_CHUNK_BYTES = 1 << 16
SUFFIXES = ("", ".gz", ".bz2", ".xz", ".zst")


def open_compressed(path: Path) -> IO[bytes]:
    """A file's decompressed bytes.

    Raises:
        InputError: zst without the package zstandard.
        OSError: the file can't be opened.
    """
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdReader(path))
    modules = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
    module = needed(modules.get(path.suffix, "builtins"))
    opened: IO[bytes] = module.open(path, "rb")
    return opened


class _ZstdReader(io.RawIOBase):
    """A zst file of any number of frames. Unlike zstandard's own reader it notices a truncation."""

    def __init__(self, path: Path) -> None:
        self._zstandard = needed("zstandard")
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of the buffer; 0 at the end.

        Raises:
            EOFError: the file ends within a frame.
        """
        while not self._ready:
            data = self._file.read(_CHUNK_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame")
                return 0
            self._ready = self._decompress(data)
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decompress(self, data: bytes) -> bytes:
        pieces = []
        while data:
            if self._frame is None:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            pieces.append(self._frame.decompress(data))
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return b"".join(pieces)


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
