"""The words of a command line, put into the form that tyro reads, before it reads them."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from pygpt.utils.errors import InputError
from pygpt.utils.suggest import did_you_mean

_NUMBER = re.compile(r"([+-]?\d+(?:_\d+)*(?:\.\d+)?|[+-]?\.\d+)(?:e([+-]?\d+))?([kmgb]?)", re.I)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_PASSED = {"-h", "--help", "--"}
_TRUE_FALSE = {"true": "True", "false": "False", "1": "True", "0": "False"}


def normalise(
    words: Sequence[str],
    fields: Mapping[str, Any],
    unknown: Callable[[str], str | None] = lambda name: None,
    required: Sequence[str] = (),
) -> list[str]:
    """Check each flag's form and rewrite it to the one that tyro takes.

    Whole numbers can be written as 1000, 1e3, 10k or 0.5M. A switch that also takes "auto" can be
    written without a value, or as ``--no-…``, like every other switch.

    Args:
        words: the command line without the command.
        fields: type of each option, by its name with underscores.
        unknown: what to say of a flag that another program has; None where nothing is known.
        required: names of the options that have to be given.

    Raises:
        InputError: an option that is missing; a flag that is unknown, lacks its value or has one
            too many; a value that is not of the option's type; a word that no option takes.
    """
    types = {name: type_ for name, type_ in fields.items() if not _is_positional(type_)}
    rest = list(words)
    result: list[str] = []
    given: set[str] = set()
    spare: list[str] = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            spare.append(word)
        if not word.startswith("-") or word in _PASSED or word.startswith("--tyro-"):
            result.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        given.add(name)
        type_ = types.get(name)
        if type_ is None:
            negated = _negated(flag, name, types)
            if not negated:
                hint = did_you_mean(flag, map(_dashed, types), "--help lists the options")
                raise InputError(unknown(name) or f"no option {flag}; {hint}")
            result += negated
        elif type_ is bool:
            if equals:
                positive = _dashed(name)
                negative = positive.replace("--", "--no-", 1)
                raise InputError(f"{word}: a switch has no value; give {positive} or {negative}")
            result.append(word)
        elif equals:
            result.append(f"{flag}={_value(flag, value, type_)}")
        else:
            result += [flag, *(_value(flag, each, type_) for each in _take(flag, rest, type_))]
    if not {"-h", "--help"} & {*words}:
        _check_given(fields, given, spare, required)
    return result


def _negated(flag: str, name: str, types: Mapping[str, Any]) -> list[str]:
    """What tyro reads for ``--no-…`` of a switch; nothing where there is no such switch."""
    positive = name.removeprefix("no_")
    if _is_tristate(types.get(positive)):
        return [_dashed(positive), "False"]
    return [flag] if types.get(positive) is bool else []


def _take(flag: str, rest: list[str], type_: Any) -> list[str]:
    """Remove the first value of a flag from the words behind it; all, where they are numbers.

    Raises:
        InputError: there is none, and the flag needs one.
    """
    if int in _items(type_):
        end = next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))
        values, rest[:end] = rest[:end], []
        return values
    if rest and not rest[0].startswith("-" if _is_tristate(type_) else "--"):
        return [rest.pop(0)]
    if _is_tristate(type_):
        return ["True"]
    if _is_sequence(type_):
        return []
    raise InputError(f"{flag} needs a value; one that begins with -- as {flag}=VALUE")


def _check_given(
    fields: Mapping[str, Any], given: set[str], spare: Sequence[str], required: Sequence[str]
) -> None:
    """Raise InputError for an option that is missing, or a word that none takes."""
    for name in required:
        if name not in given and not _is_positional(fields[name]):
            raise InputError(f"{_dashed(name)} is missing; --help explains it")
        # What takes any number of words takes none too; the command itself says what it needs.
        if not spare and _is_positional(fields[name]) and not _is_sequence(fields[name]):
            raise InputError(f"{name.upper()} is missing; --help explains it")
    takes_words = any(_is_positional(type_) or _is_sequence(type_) for type_ in fields.values())
    if spare and not takes_words:
        raise InputError(f"what is {spare[0]!r}? Options begin with --; --help lists them")


def _is_positional(type_: Any) -> bool:
    """Whether an option is given by its place, without a flag."""
    return tyro.conf.Positional in getattr(type_, "__metadata__", ())


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
    members = _items(type_) or _members(type_)
    words = [str(each) for each in members if isinstance(each, str | int)]  # those of a Literal
    if text == "" and Path in members:
        raise InputError(f"{flag} is empty; give a path, or leave it out")
    if bool in members:
        text = _TRUE_FALSE.get(text.lower(), text)
    if text in words:
        return text
    if text == "None" and types.NoneType in members:
        return text
    if int in members and str not in members and float not in members:
        number = whole_number(text)
        if number is None:
            raise InputError(
                f"{flag} {text}: not a whole number; write it as 1000, 1e3, 10k or 0.5M"
                + "".join(f", or {word}" for word in words)
            )
        return str(number)
    if float in members and not {str, Path} & {*members}:
        try:
            float(text)
        except ValueError:
            raise InputError(f"{flag} {text}: not a number; write it as 0.001 or 1e-3") from None
    if bool in members and text in ("True", "False"):
        return text
    if words and not {int, float, str, Path} & {*members}:
        raise InputError(f"{flag} {text}: not one of {', '.join(words)}")
    return text


def _members(type_: Any) -> list[Any]:
    """The types of a union and the values of its Literals; of another type, itself."""
    if get_origin(type_) is Annotated:
        return _members(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return [each for member in get_args(type_) for each in _members(member)]
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    return [type_]


def _is_tristate(type_: Any) -> bool:
    members = _members(type_)
    return bool in members and len(members) > 1


def _is_sequence(type_: Any) -> bool:
    """Whether further words can follow the first value: not where the flag is repeated instead."""
    return any(get_origin(each) in (tuple, list) for each in _members(type_)) and (
        tyro.conf.UseAppendAction not in getattr(type_, "__metadata__", ())
    )


def _items(type_: Any) -> list[Any]:
    """The types of a sequence's items, also of one in another; nothing for another type."""
    sequences = [each for each in _members(type_) if get_origin(each) in (tuple, list)]
    items = [each for sequence in sequences for each in get_args(sequence) if each is not ...]
    return [inner for each in items for inner in _items(each) or [each]]


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
