"""What every command shares: reading flags, one-line logging, errors without a traceback."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TextIO, TypeVar

import tyro
from docstring_parser import parse_from_object
from rich.console import Console

from pygpt.utils.errors import InputError

T = TypeVar("T")

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
READER_GONE = 141  # 128 + SIGPIPE


def parse(
    options: type[T],
    *,
    prog: str,
    default: T | None = None,
    args: Sequence[str] | None = None,
    nanogpt: Mapping[str, str] | None = None,
) -> T:
    """Fill a dataclass from the command line.

    Help texts come from docstrings; dashes and underscores are both accepted; an unknown flag
    leaves with status 2 and the nearest names.

    Args:
        options: the dataclass.
        prog: the command as a user types it, such as "python -m pygpt.prepare".
        default: an instance whose fields are the defaults; None takes the dataclass's own.
        args: the words to read; None takes sys.argv.
        nanogpt: nanoGPT's names of flags, by underscores, and what to write instead.

    Raises:
        InputError: a flag as nanoGPT has it, with what to write here.
    """
    switches = _switches(options)
    for word in sys.argv[1:] if args is None else args:
        flag, equals, _ = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and nanogpt and name in nanogpt:
            raise InputError(f"--{name} is nanoGPT's; here it is {nanogpt[name]}")
        if equals and flag.startswith("--") and name in switches:
            dashed = name.replace("_", "-")
            raise InputError(f"{word}: a switch has no value; give --{dashed} or --no-{dashed}")
    _join_help_lines(options)
    if default is None:
        return tyro.cli(options, prog=prog, args=args)
    return tyro.cli(options, prog=prog, default=default, args=args)


def _switches(options: type) -> set[str]:
    return {field.name for field in dataclasses.fields(options) if field.type == "bool"}


def _join_help_lines(options: type) -> None:
    """Make each field's docstring one line: tyro takes an indented line for a new paragraph."""
    texts = {text.arg_name: text.description for text in parse_from_object(options).params}
    for field in dataclasses.fields(options):
        field.metadata = MappingProxyType({"help": " ".join((texts.get(field.name) or "").split())})


def command(name: str, *words: object) -> str:
    """What to type to run a command, with paths quoted where a shell needs it."""
    return shlex.join(["python", "-m", f"pygpt.{name}", *map(str, words)])


def say(console: Console, text: str) -> None:
    """Print a line as it is: paths and commands stay whole, to be copied."""
    console.print(text, soft_wrap=True, markup=False)


def discard_output(stream: TextIO) -> None:
    """Send nowhere what a stream still holds and what will be written to it: nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(main: Callable[[], None]) -> None:
    """Run a command: bad input and Ctrl-C become one line on stderr and an exit status.

    Raises:
        SystemExit: status 2 for an InputError, 130 for Ctrl-C, 141 when nobody reads on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model writes what latin-1 has no letters for
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader has seen enough (`| head`)
        discard_output(sys.stdout)  # or Python would complain once more as it flushes
        sys.exit(READER_GONE)
