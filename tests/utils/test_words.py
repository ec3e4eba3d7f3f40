"""Command lines as people write them: numbers, switches, empty paths."""

import dataclasses
from itertools import chain
from pathlib import Path
from typing import Literal

import pytest
from tyro.conf import Positional, UseAppendAction

from pygpt.eval import EvalConfig
from pygpt.report import ReportConfig
from pygpt.sample import SampleConfig
from pygpt.utils import cli
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
    "format": Literal["hf", "gguf", "onnx"],
    "steps": tuple[int, ...],
}
NO_WORDS = {"compile": bool | Literal["auto"], "data": UseAppendAction[tuple[str, ...]]}
WITH_RUN = {"run": Positional[str], "to": Path}


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
        ("--compile=false", "--compile=False"),
        ("--no-resume", "--no-resume"),
        ("--prompt 10k", "--prompt 10k"),
        ("--learning-rate 1e-3", "--learning-rate 1e-3"),
        ("--format gguf", "--format gguf"),
        ("--steps 10 20 --steps 1e3", "--steps 10 20 --steps 1000"),
        ("--steps --resume", "--steps --resume"),
        ("--tyro-print-completion bash", "--tyro-print-completion bash"),
        ("--max-steps -5 -h", "--max-steps -5 -h"),
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
        (["--max-step", "5"], "no option --max-step; did you mean '--max-steps'?"),
        (["-n", "5"], "no option -n; --help lists the options"),
        (["--no-prompt"], "no option --no-prompt; did you mean '--prompt'?"),
        (["--format", "ggfu"], "--format ggfu: not one of hf, gguf, onnx"),
        (["--format=ggfu"], "--format ggfu: not one of hf, gguf, onnx"),
        (["--compile", "maybe"], "--compile maybe: not one of auto"),
        (["--prompt"], "--prompt needs a value; one that begins with -- as --prompt=VALUE"),
        (["--prompt", "--resume"], "--prompt needs a value"),
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


@pytest.mark.parametrize(
    ("fields", "line", "message"),
    [
        (WITH_RUN, "runs/mine", "--to is missing; --help explains it"),
        (WITH_RUN, "--to out", "RUN is missing; --help explains it"),
        (WITH_RUN, "--run runs/mine --to out", "no option --run"),
        (NO_WORDS, "extra", "what is 'extra'\\? Options begin with --"),
        (NO_WORDS, "--data a b", "what is 'b'\\?"),
    ],
)
def test_what_is_missing_and_what_is_too_much(
    fields: dict[str, object], line: str, message: str
) -> None:
    required = [name for name in ("run", "to") if name in fields]
    with pytest.raises(InputError, match=message):
        normalise(line.split(), fields, required=required)


@dataclasses.dataclass(frozen=True)
class Models:
    """Some models."""

    paths: Positional[tuple[str, ...]] = ()
    compare: UseAppendAction[tuple[tuple[str, ...], ...]] = ()


def test_a_flag_of_several_values_can_be_repeated() -> None:
    given = cli.parse(Models, prog="x", args=["a", "--compare", "b", "c", "--compare", "d"])
    assert (given.paths, given.compare) == (("a",), (("b", "c"), ("d",)))


def test_every_command_takes_the_flag_as_the_help_shows_it() -> None:
    for options in (EvalConfig, SampleConfig):
        given = cli.parse(options, prog="x", args=["--compare", "b", "--compare", "c"])
        assert [*chain(*given.compare)] == ["b", "c"]
    report = cli.parse(ReportConfig, prog="x", args=["log", "--steps", "10", "--steps", "20"])
    assert [*chain(*report.steps)] == [10, 20]
