"""What every command shares: reading flags, logging, errors without a traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, TextIO, TypeVar, cast, get_type_hints

import tyro
from docstring_parser import parse_from_object
from rich.console import Console

from pygpt.utils.errors import InputError
from pygpt.utils.words import normalise

logger = logging.getLogger(__name__)

T = TypeVar("T")

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as in shells
READER_GONE = 141  # 128 + SIGPIPE


def parse(
    options: type[T],
    *,
    prog: str,
    default: T | None = None,
    args: Sequence[str] | None = None,
    unknown: Callable[[str], str | None] = lambda name: None,
) -> T:
    """Fill a dataclass from the command line.

    Help texts come from docstrings; dashes and underscores are both accepted. Fields that
    are dataclasses themselves give their options without a prefix. For the forms that values can
    have, see `pygpt.utils.words`. A wrong word is one line, as all invalid input.

    Args:
        options: the dataclass.
        prog: the command as a user types it, such as "python -m pygpt.prepare".
        default: an instance whose fields are the defaults; None takes the dataclass's own.
        args: the words to read; None takes sys.argv.
        unknown: what to say of a flag, by its name with underscores, that another program has.

    Raises:
        InputError: an option that does not exist or is missing, or a value that is not of its type.
    """
    words = normalise(
        sys.argv[1:] if args is None else args,
        _option_types(options),
        unknown,
        required=_required(options) if default is None else (),
    )
    _join_help_lines(options)
    given: dict[str, Any] = {} if default is None else {"default": default}
    flat = (tyro.conf.OmitArgPrefixes,)  # --max-steps, not --run.max-steps
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return cast(T, tyro.cli(options, prog=prog, args=words, config=flat, **given))
    except SystemExit as stop:
        # An InputError of the dataclass itself: one line as everywhere, not tyro's box around it.
        if refused := _input_error_behind(stop):
            raise refused from None
        sys.stderr.write(errors.getvalue())
        raise


def _input_error_behind(error: BaseException) -> InputError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__context__
    return cause


def _option_types(options: type) -> dict[str, Any]:
    """Type of each option by name, those of nested dataclasses included."""
    types: dict[str, Any] = {}
    for name, type_ in get_type_hints(options, include_extras=True).items():
        if dataclasses.is_dataclass(type_):
            types |= _option_types(cast(type, type_))
        else:
            types[name] = type_
    return types


def _required(options: type) -> list[str]:
    """Names of the options without a default."""
    missing = {dataclasses.MISSING}
    return [
        field.name
        for field in dataclasses.fields(options)
        if {field.default, field.default_factory} == missing
    ]


def _join_help_lines(options: type) -> None:
    """Make each field's docstring one line: tyro takes an indented line for a new paragraph."""
    texts = {text.arg_name: text.description for text in parse_from_object(options).params}
    for field in dataclasses.fields(options):
        field.metadata = MappingProxyType({"help": " ".join((texts.get(field.name) or "").split())})
    for type_ in get_type_hints(options).values():
        if dataclasses.is_dataclass(type_):
            _join_help_lines(cast(type, type_))


def command(name: str, *words: object) -> str:
    """What to type to run a command, with paths quoted where a shell needs it."""
    return shlex.join(["python", "-m", f"pygpt.{name}", *map(str, words)])


def say(console: Console, text: str) -> None:
    """Print a line as it is: paths and commands stay whole, to be copied."""
    console.print(text, soft_wrap=True, markup=False)


def discard_output(stream: TextIO) -> None:
    """Discard what a stream has buffered and what will be written to it: its reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


SPINS = 20_000
"""Rounds, about 0.1 ms, that an idle OpenMP thread spins before it sleeps; GNU's are 300,000.

Measured on two cores, tokens/s alone and beside two programs that compute all the time: loss at
124 M 2,362 and 1,089 by default, 2,614 and 1,508 with this; steps of a 128-wide model 33,900 and
3,200, with this 30,900 and 9,500.
"""


def _yield_cores() -> None:
    """Have OpenMP's threads give up a core that another program could use.

    GNU's library, which PyTorch's Linux packages contain, reads the variable when it is loaded.
    Intel's and LLVM's are left as they are: shorter waits made them slower in most cases.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _report_of_thread(failure: threading.ExceptHookArgs) -> None:
    """One line for a disk that fails a library's thread (TensorBoard's); else the traceback."""
    if isinstance(failure.exc_value, OSError):
        logger.warning("a thread ended: %s", failure.exc_value)
    else:
        threading.__excepthook__(failure)


def run(main: Callable[[], None]) -> None:
    """Run a command: bad input and Ctrl-C become one line on stderr and an exit status.

    Raises:
        SystemExit: status 2 for an InputError, 130 for Ctrl-C, 141 when nobody reads on.
    """
    _yield_cores()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model writes characters that latin-1 lacks
    threading.excepthook = _report_of_thread
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader has closed the pipe (`| head`)
        discard_output(sys.stdout)  # otherwise Python fails again when it flushes
        sys.exit(READER_GONE)
