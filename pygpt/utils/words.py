"""The words of a command line, put into the form that tyro reads, before it reads them."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pygpt.utils.errors import InputError

_NUMBER = re.compile(r"([+-]?\d+(?:_\d+)*(?:\.\d+)?|[+-]?\.\d+)(?:e([+-]?\d+))?([kmgb]?)", re.I)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_TRUE_FALSE = {"true": "True", "false": "False", "1": "True", "0": "False"}


def normalise(
    words: Sequence[str],
    fields: Mapping[str, Any],
    unknown: Callable[[str], str | None] = lambda name: None,
) -> list[str]:
    """Check each flag's form and rewrite it to the one that tyro takes.

    Whole numbers can be written as 1000, 1e3, 10k or 0.5M. A switch that also takes "auto" can be
    written without a value, or as ``--no-…``, like every other switch.

    Args:
        words: the command line without the command.
        fields: type of each option, by its name with underscores.
        unknown: what to say of a flag that another program has; None where nothing is known.

    Raises:
        InputError: a flag of another program, a switch with a value, an empty path, a number that
            is not one.
    """
    rest = list(words)
    result: list[str] = []
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--"):
            result.append(word)
            continue
        if message := None if name in fields else unknown(name):
            raise InputError(message)
        positive = name.removeprefix("no_")
        if name not in fields and _is_tristate(fields.get(positive)):
            result += [_dashed(positive), "False"]
            continue
        type_ = fields.get(name)
        if type_ is bool and equals:
            dashed = name.replace("_", "-")
            raise InputError(f"{word}: a switch has no value; give --{dashed} or --no-{dashed}")
        if _is_tristate(type_):
            if not equals and (not rest or rest[0].startswith("-")):
                value = "True"
            elif not equals:
                value = rest.pop(0)
            result += [flag, _TRUE_FALSE.get(value.lower(), value)]
            continue
        if type_ in (None, bool) or not (equals or rest):
            result.append(word)
            continue
        given = value if equals else rest[0]
        written = _value(flag, given, type_)
        if equals:
            result.append(f"{flag}={written}")
        else:
            result += [flag, written]
            rest.pop(0)
    return result


def whole_number(text: str) -> int | None:
    """The integer that `text` writes, such as "10k" or "1e3"; None where it is not one."""
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    digits, exponent, suffix = found.groups()
    if len(digits) > 40 or len(exponent or "") > 3 or abs(int(exponent or 0)) > 30:
        return None
    number = Decimal(digits.replace("_", "")).scaleb(int(exponent or 0))
    number *= _FACTORS[suffix.lower()]
    return int(number) if number == number.to_integral_value() else None


def _value(flag: str, text: str, type_: Any) -> str:
    """The value as tyro reads it; what is not of the option's type is refused."""
    members = set(_members(type_))
    if text == "" and Path in members:
        raise InputError(f"{flag} is empty; give a path, or leave it out")
    if text in {str(each) for each in members if isinstance(each, str)}:
        return text  # one of the words of a Literal
    if text == "None" and types.NoneType in members:
        return text
    if int in members and str not in members and float not in members:
        number = whole_number(text)
        if number is None:
            words = "".join(f", or {each}" for each in members if isinstance(each, str))
            raise InputError(
                f"{flag} {text}: not a whole number; write it as 1000, 1e3, 10k or 0.5M{words}"
            )
        return str(number)
    if members & {float} and not members & {str, Path}:
        try:
            float(text)
        except ValueError:
            raise InputError(f"{flag} {text}: not a number; write it as 0.001 or 1e-3") from None
    return text


def _members(type_: Any) -> list[Any]:
    """The types of a union and the values of its Literals; of another type, itself."""
    if get_origin(type_) in (Union, types.UnionType):
        return [each for member in get_args(type_) for each in _members(member)]
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    return [type_]


def _is_tristate(type_: Any) -> bool:
    members = _members(type_)
    return bool in members and len(members) > 1


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
