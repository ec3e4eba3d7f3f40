"""TOML files of `TrainConfig`'s values: recipes, a user's ``--config``, a run's config.toml."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pygpt.config.other_trainers import hint
from pygpt.config.start import StartOptions
from pygpt.config.train import TrainConfig
from pygpt.utils.encodings import read_utf8
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import of_type
from pygpt.utils.suggest import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OF_ONE_START = {field.name for field in dataclasses.fields(StartOptions)}


def read(path: Path) -> dict[str, Any]:
    """The values of a TOML file, by field, each of its field's type.

    Raises:
        InputError: the file can't be read, has a field or a type that does not exist here, or a
            field that only a flag can give.
    """
    try:
        values: dict[str, Any] = tomllib.loads(read_utf8(path))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"can't read the config {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    types = get_type_hints(TrainConfig)
    for name, value in values.items():
        if name in _OF_ONE_START:
            raise InputError(
                f"{path}: {name} is about one start of a run; give it as the flag "
                f"--{name.replace('_', '-')}"
            )
        if name not in types:
            elsewhere = hint(name, flags=False)
            raise InputError(f"{path}: {elsewhere or _unknown(name, list(types))}")
        values[name] = _checked(path, name, value, types[name])
    return values


def _unknown(name: str, names: list[str]) -> str:
    return f"no field {name!r}; {did_you_mean(name, names)}"


def _checked(path: Path, name: str, value: Any, type_: Any) -> Any:
    """Check one value against its field's type; TOML has no paths, and writes 1.0 as 1 too."""
    if type_ == tuple[str, ...]:  # one text stands for a list of one
        texts = value if isinstance(value, list) else [value]
        if "" in texts:
            raise InputError(f"{path}: {name} is empty; give a path, or leave the line out")
        return tuple(_of_type(path, name, texts, list[str]))
    if Path in get_args(type_) and isinstance(value, str):
        if not value:
            raise InputError(f"{path}: {name} is empty; give a path, or leave the line out")
        return Path(value)
    return _of_type(path, name, value, type_)


def _of_type(path: Path, name: str, value: Any, type_: Any) -> Any:
    try:
        return of_type(name, value, type_)
    except TypeError as error:
        raise InputError(f"{path}: {error}") from error
