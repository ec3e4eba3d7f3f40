"""Messages in several languages: English in the source, translations in ``locale/LANGUAGE.po``.

Catalogues are gettext's, read as they are by Babel: there is nothing to compile. English needs
neither a catalogue nor Babel.
"""

from __future__ import annotations

import dataclasses
import functools
import string
from datetime import datetime
from importlib import resources
from typing import Any

from pygpt.utils.errors import InputError

LANGUAGES = ("en", "zh-Hant", "ja", "de", "fr")


@dataclasses.dataclass(frozen=True)
class Message:
    """A sentence to translate: the English text with ``{name:format}``, and the values."""

    text: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


def msg(text: str, **values: Any) -> Message:
    """A message; translators' tools find messages by this name (``pybabel extract -k msg``).

    A value may be a message itself.
    """
    return Message(text, values)


class Language:
    """Renders messages, numbers and dates in one language.

    Raises:
        InputError: there is no such language, or Babel is not installed.
    """

    def __init__(self, name: str = "en") -> None:
        if name not in LANGUAGES:
            raise InputError(f"no language {name!r}; there are {', '.join(LANGUAGES)}")
        self.name = name
        self._catalogue = {} if name == "en" else read_catalogue(name)
        self._formatter = _Formatter(self)

    def __call__(self, message: Message | str) -> str:
        """The text in this language, values filled in."""
        if isinstance(message, str):
            return self._catalogue.get(message, message)
        text = self._catalogue.get(message.text, message.text)
        return str(self._formatter.vformat(text, (), message.values))

    def number(self, value: float, spec: str = ",") -> str:
        """A number by Python's format, with the separators of this language."""
        text = format(value, spec)
        if self.name == "en":
            return text
        group, decimal = _separators(self.name)
        return text.translate({ord(","): group, ord("."): decimal})

    def date(self, moment: datetime) -> str:
        """A date with the time of day."""
        if self.name == "en":
            return f"{moment:%Y-%m-%d %H:%M}"
        from babel.dates import format_datetime

        return str(format_datetime(moment, "medium", locale=_locale(self.name)))


class _Formatter(string.Formatter):
    """`str.format` whose numbers and nested messages follow the language."""

    def __init__(self, language: Language) -> None:
        self._language = language

    def format_field(self, value: Any, format_spec: str) -> Any:
        if isinstance(value, Message):
            return self._language(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._language.number(value, format_spec or ",")
        return format(value, format_spec)


def read_catalogue(name: str) -> dict[str, str]:
    """English → the language of ``locale/NAME.po``.

    Raises:
        InputError: Babel is not installed.
    """
    try:
        from babel.messages.pofile import read_po
    except ModuleNotFoundError as error:
        raise InputError(
            f'--language {name} needs Babel: pip install "pygpt-trainer[report]"'
        ) from error
    file = resources.files("pygpt.reporting") / "locale" / f"{name}.po"
    with file.open("rb") as stream:
        catalogue = read_po(stream)
    # No message has plural forms, which would be tuples.
    return {str(entry.id): str(entry.string) for entry in catalogue if entry.id and entry.string}


@functools.cache
def _separators(name: str) -> tuple[str, str]:
    from babel import Locale

    symbols = Locale.parse(_locale(name)).number_symbols["latn"]
    return symbols["group"], symbols["decimal"]


def _locale(name: str) -> str:
    return name.replace("-", "_")
