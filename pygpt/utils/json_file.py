"""JSON files that people may have edited, or that were damaged on a disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import typeguard

from pygpt.utils.encodings import read_utf8
from pygpt.utils.errors import InputError

T = TypeVar("T")


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested deeper than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. A byte order mark, as Windows editors write it, is skipped.

    Raises:
        InputError: the file can't be read, is not JSON, or holds something else than an object.
    """
    try:
        fields = parse(read_utf8(path))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no JSON object, but {fields!r:.40}")
    return fields


def of_type(name: str, value: Any, type_: Any) -> Any:
    """`value`, if it is of a type as annotations write it.

    Raises:
        TypeError: it is not. True is not a number here, and 1 is a float.
    """
    if type(value) is int and type_ is not int and float in (type_, *get_args(type_)):
        return _as_float(name, value)
    try:
        if isinstance(value, bool) and bool not in (type_, *get_args(type_)):
            raise typeguard.TypeCheckError("bool is not expected")
        return typeguard.check_type(
            value,
            type_,
            collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
        )
    except typeguard.TypeCheckError as error:
        raise TypeError(f"{name} = {value!r:.60} can't be used: {error}") from error


def build(cls: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass of `fields`, each of its annotated type.

    Raises:
        TypeError: a field that is missing, unknown or of another type; or no mapping.
    """
    types = get_type_hints(cls)
    if not isinstance(fields, Mapping):
        raise TypeError(f"{fields!r:.60} is not an object")
    known = {
        name: of_type(name, value, types[name]) if name in types else value
        for name, value in fields.items()
    }
    assert dataclasses.is_dataclass(cls)
    return cls(**known)


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise TypeError(f"{name} = {value!r:.60} can't be used: it is too large") from None
