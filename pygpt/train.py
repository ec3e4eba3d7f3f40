"""python -m pygpt.train: train a GPT, from the data to a sample of what it writes."""

from __future__ import annotations

import sys

from pygpt.training.flags import read_command_line
from pygpt.training.launch import Launch
from pygpt.utils import cli


def main() -> None:
    """The command."""
    launch = Launch.of()
    launch.stop_with_torchrun()
    with launch.reporting():
        with launch.reading_flags():
            config, run, options = read_command_line(sys.argv[1:], launch)
        from pygpt.training import session  # imports torch, which the flags don't need

        session.start(config, run, options, launch)


if __name__ == "__main__":
    cli.run(main)
