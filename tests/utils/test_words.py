"""Command lines as people write them: numbers, switches, empty paths."""

from pathlib import Path
from typing import Literal

import pytest

from pygpt.utils.errors import InputError
from pygpt.utils.words import normalise, whole_number

FIELDS = {
    "max_steps": int,
    "micro_batch": int | Literal["auto"],
    "top_k": int | None,
    "learning_rate": float,
    "compile": bool | Literal["auto"],
    "resume": bool,
    "out": Path | None,
    "prompt": str,
}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1000", 1000),
        ("1e3", 1000),
        ("10k", 10_000),
        ("0.5M", 500_000),
        ("1_000", 1000),
        ("2B", 2 * 10**9),
        ("-5", -5),
        ("1.5", None),
        ("1e-3", None),
        ("0.5", None),
        ("ten", None),
        ("", None),
        ("1e999999999", None),
        ("10kk", None),
    ],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--max-steps 1e3", "--max-steps 1000"),
        ("--max_steps=10k", "--max_steps=10000"),
        ("--micro-batch auto", "--micro-batch auto"),
        ("--top-k None", "--top-k None"),
        ("--compile", "--compile True"),
        ("--compile --resume", "--compile True --resume"),
        ("--no-compile", "--compile False"),
        ("--compile auto", "--compile auto"),
        ("--compile=false", "--compile False"),
        ("--no-resume", "--no-resume"),
        ("--prompt 10k", "--prompt 10k"),
        ("--learning-rate 1e-3", "--learning-rate 1e-3"),
        ("--max-step 1e3", "--max-step 1e3"),  # unknown: left to the parser, which suggests
        ("word --out a", "word --out a"),
    ],
)
def test_words_are_rewritten(line: str, expected: str) -> None:
    assert normalise(line.split(), FIELDS) == expected.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-steps", "1.5"], "--max-steps 1.5: not a whole number; write it as 1000, 1e3"),
        (["--micro-batch", "most"], "--micro-batch most: not a whole number.*, or auto$"),
        (["--learning-rate", "fast"], "--learning-rate fast: not a number"),
        (["--out", ""], "--out is empty; give a path"),
        (["--out="], "--out is empty; give a path"),
        (["--resume=True"], "--resume=True: a switch has no value; give --resume or --no-resume"),
        (["--max-iters", "5"], "here it is --max-steps"),
    ],
)
def test_bad_words_are_one_line(words: list[str], message: str) -> None:
    def unknown(name: str) -> str | None:
        return "here it is --max-steps" if name == "max_iters" else None

    with pytest.raises(InputError, match=message) as raised:
        normalise(words, FIELDS, unknown)
    assert "\n" not in str(raised.value)


def test_an_empty_prompt_is_a_value() -> None:
    assert normalise(["--prompt", ""], FIELDS) == ["--prompt", ""]
