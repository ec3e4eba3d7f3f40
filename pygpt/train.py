"""python -m pygpt.train: train a GPT, from the data to a sample of what it writes."""

from __future__ import annotations

import sys

from pygpt.training.flags import read_command_line
from pygpt.utils import cli


def main() -> None:
    """The command."""
    config, run, options = read_command_line(sys.argv[1:])
    from pygpt.training import session  # imports torch, which the flags don't need

    session.start(config, run, options)


if __name__ == "__main__":
    cli.run(main)
