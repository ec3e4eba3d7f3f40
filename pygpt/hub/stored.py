"""Tensors of ``.safetensors`` files, read one at a time into memory that exists already.

A file is mapped for at most CHUNK_BYTES of it at a time: pages of a mapped file count as memory of
the process, so a model is loaded with little more than its own size.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pygpt.hub.layout import shorten
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import read_object

CHUNK_BYTES = 16 << 20
_FLOATS = ("F64", "F32", "F16", "BF16")
_NEEDED = (
    "weights are read from safetensors only: a pytorch_model.bin is a pickle, which can run code; "
    "load it in transformers and save it again with save_pretrained"
)


@dataclasses.dataclass(frozen=True)
class _Entry:
    path: Path
    shape: tuple[int, ...]
    dtype: str


class StoredTensors:
    """The tensors of one or several ``.safetensors`` files, by name."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers.

        Raises:
            InputError: a file is missing or damaged.
        """
        self._entries: dict[str, _Entry] = {}
        for path in files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    entry = _Entry(path, tuple(part.get_shape()), part.get_dtype())
                    self._entries[name] = entry

    @classmethod
    def of_directory(cls, directory: Path) -> StoredTensors:
        """The weights of a model directory: ``model.safetensors``, or the files of its index.

        Raises:
            InputError: there are none, or one is missing or damaged.
        """
        path = directory / "model.safetensors"
        index = directory / f"{path.name}.index.json"
        if path.exists():
            return cls([path])
        if not index.exists():
            raise InputError(f"{path} does not exist; {_NEEDED}")
        weight_map = read_weight_map(index)
        stored = cls([directory / name for name in sorted(set(weight_map.values()))])
        absent = sorted(set(weight_map) - set(stored.names()))
        if absent:
            raise InputError(f"{index} lists tensors that no file holds: {shorten(absent)}")
        return stored

    def names(self) -> list[str]:
        """Every name, in the order of the files."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._entries[name].shape

    def check_dtype(self, name: str) -> None:
        """Raise InputError for numbers that are not floating-point, such as quantised weights."""
        entry = self._entries[name]
        if entry.dtype not in _FLOATS:
            raise InputError(
                f"{entry.path}: {name} is stored as {entry.dtype}; only floating-point weights "
                f"({', '.join(_FLOATS)}) are read, and a quantised model is not"
            )

    def copy_into(self, name: str, target: Tensor) -> None:
        """Copy a stored tensor into `target`, of the same shape and any dtype, device and strides.

        Raises:
            InputError: the file is damaged, or holds no floating-point numbers under this name.
        """
        self.check_dtype(name)
        for rows, part in self._parts(name):
            target[rows].copy_(part)

    def _parts(self, name: str) -> Iterator[tuple[Any, Tensor]]:
        """A tensor in blocks of rows: the index of a block and its values."""
        entry = self._entries[name]
        if not entry.shape:
            with _opened(entry.path) as file:
                yield (), file.get_tensor(name)
            return
        n = entry.shape[0]
        bytes_per_row = 8 * torch.Size(entry.shape[1:]).numel()
        step = max(1, CHUNK_BYTES // bytes_per_row)
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            with _opened(entry.path) as file:
                yield rows, file.get_slice(name)[rows]

    def equal(self, name: str, other: Tensor) -> bool:
        """Whether a stored tensor has the same values as `other`."""
        if self.shape(name) != other.shape:
            return False
        return all(torch.equal(part.to(other), other[rows]) for rows, part in self._parts(name))


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name → file name of a sharded model's ``model.safetensors.index.json``.

    Raises:
        InputError: it is damaged, or names a file outside its own directory.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f'{index} has no "weight_map" of tensor names to file names')
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith("tensors"):
            raise InputError(f"{index}: {name!r} is not the name of a .safetensors file beside it")
    return weight_map


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file.

    Raises:
        InputError: the file is missing or damaged.
    """
    with _reading(path):
        return safetensors.torch.load_file(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with _reading(path), safetensors.safe_open(path, "pt") as file:
        yield file


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
