"""Measure other launch configurations on this machine's GPU and keep those that win.

Run: ``python -m pygpt.tune --head-size 64 --width 768``

The kernels' configurations are fixed by default, so that a resumed run sums in the order in which
it began. The table written here is read only by runs that ask for it, by PYGPT_LAUNCH_TABLE; use
it from a run's first step on, or not at all.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from pygpt.config.tune import TuneConfig
from pygpt.utils import cli
from pygpt.utils.errors import InputError
from pygpt.utils.files import cache_directory


def main() -> None:
    """The command."""
    began = time.monotonic()
    config = cli.parse(TuneConfig, prog="python -m pygpt.tune")
    import torch

    from pygpt.kernels import launch
    from pygpt.planning import tuning

    if not torch.cuda.is_available():
        raise InputError("tuning measures a CUDA device, and this machine has none")
    gpu = torch.cuda.get_device_name()
    path = config.out or cache_directory() / f"launch-{gpu.replace(' ', '-')}.json"
    _try_writing(path)
    launch.use_table(None)  # measured against the built-in table
    winners: dict[launch.Key, launch.Launch] = {}
    for winners in tuning.tune(config, torch.device("cuda"), began + config.seconds):
        launch.write_table(path, winners, f"{gpu}, {launch.identity(winners)}")
    print(f"{len(winners)} configurations beat the built-in ones")
    if winners:
        print(f"to use them:\n  export PYGPT_LAUNCH_TABLE={shlex.quote(str(path))}")


def _try_writing(path: Path) -> None:
    """Create the file and its directory if they are missing; existing content stays.

    Raises:
        InputError: they can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise InputError(
            f"the table can't be written to {path} ({error.strerror}); name another file by --out"
        ) from error


if __name__ == "__main__":
    cli.run(main)
