"""Catalogues: every message in every language, with the same values in it."""

from __future__ import annotations

import string
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pygpt import reporting
from pygpt.reporting.language import LANGUAGES, Language, msg, read_catalogue
from pygpt.utils.errors import InputError

extract = pytest.importorskip("babel.messages.extract", reason="waits for babel")

ROOM = Path(reporting.__file__).parent
TRANSLATED = [name for name in LANGUAGES if name != "en"]


def messages() -> Iterator[str]:
    """What Babel finds in the source and in the template."""
    methods = [("**.py", "python"), ("**.j2", "jinja2.ext:babel_extract")]
    keywords = {"msg": None, "_": None}
    for _, _, text, _, _ in extract.extract_from_dir(ROOM, methods, keywords=keywords):
        yield text


def values_in(text: str) -> list[tuple[str, str]]:
    parts = string.Formatter().parse(text)
    return sorted((name, spec or "") for _, name, spec, _ in parts if name is not None)


@pytest.mark.parametrize("name", TRANSLATED)
def test_every_message_is_translated_and_no_other(name: str) -> None:
    assert set(read_catalogue(name)) == set(messages())


@pytest.mark.parametrize("name", TRANSLATED)
def test_values_are_those_of_the_message(name: str) -> None:
    for text, translation in read_catalogue(name).items():
        assert values_in(translation) == values_in(text), text


def test_numbers_and_dates_follow_the_language() -> None:
    german, english = Language("de"), Language()
    assert german.number(12345.678, ",.2f") == "12.345,68"
    assert english.number(12345.678, ",.2f") == "12,345.68"
    assert german.date(datetime(2026, 1, 31, 9, 5)).startswith("31.01.2026")
    assert english.date(datetime(2026, 1, 31, 9, 5)) == "2026-01-31 09:05"


def test_a_message_within_a_message_is_translated_too() -> None:
    inner = msg("power law")
    text = Language("de")(msg("Between {low:.3f} and {high:.3f}, by the {method}.",
                              low=4.0, high=4.1, method=inner))  # fmt: skip
    assert "4,000" in text
    assert "4,100" in text
    assert Language("de")(inner) in text


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(InputError, match="no language 'la'; there are en, zh-Hant"):
        Language("la")
