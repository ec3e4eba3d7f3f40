"""How the processes of a run were started: alone, or by torchrun (torch.distributed.elastic).

Reads the environment variables that torchrun sets, without torch:
https://docs.pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping

from pygpt.utils.errors import InputError

SECONDS_FOR_RANK_0 = 2.0
_PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclasses.dataclass(frozen=True)
class Launch:
    """One process among those of the run."""

    rank: int = 0
    """Its number among all processes."""
    local_rank: int = 0
    """Its number among those of this machine."""
    world_size: int = 1
    """Processes, over all machines."""
    local_world_size: int = 1
    """Processes on this machine."""
    restarts: int = 0
    """How often torchrun has restarted the processes after one of them failed."""
    id: str | None = None
    """The same in all restarts by one torchrun, and in no other run; None without torchrun."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """Read the environment.

        Raises:
            InputError: it says that there are several processes, but not which one this is.
        """
        world_size = _integer(environment, "WORLD_SIZE", 1)
        missing = [name for name in _NEEDED if name not in environment]
        if missing and world_size > 1:
            raise InputError(
                f"WORLD_SIZE={world_size} is set and {', '.join(missing)} not; start several "
                f"processes by torchrun --nproc-per-node {world_size} -m pygpt.train …, or unset "
                "WORLD_SIZE to train in one"
            )
        if missing:
            return cls()
        rank = _integer(environment, "RANK", 0)
        if not 0 <= rank < world_size:
            raise InputError(f"RANK={rank} is not below WORLD_SIZE={world_size}")
        return cls(
            rank=rank,
            local_rank=_integer(environment, "LOCAL_RANK", 0),
            world_size=world_size,
            local_world_size=_integer(environment, "LOCAL_WORLD_SIZE", 1),
            restarts=_integer(environment, "TORCHELASTIC_RESTART_COUNT", 0),
            id=_unique_id(environment, world_size),
        )

    def device_name(self, name: str, n_gpus: int) -> str:
        """The device of this process, for the run's `device`: each takes a GPU of its own.

        Args:
            name: "auto", "cpu", "cuda" …
            n_gpus: GPUs of this machine.

        Raises:
            InputError: two processes would compute on one GPU.
        """
        if self.world_size == 1 or name == "cpu" or (name == "auto" and not n_gpus):
            return name
        if name not in ("auto", "cuda"):
            raise InputError(
                f"--device {name} is one device for {self.world_size} processes; give --device "
                "cuda, by which each takes its own, and choose GPUs by CUDA_VISIBLE_DEVICES"
            )
        if self.local_world_size > n_gpus:
            raise InputError(
                f"{self.local_world_size} processes on this machine would share {n_gpus} GPUs; "
                f"give torchrun --nproc-per-node {max(1, n_gpus)}, or --device cpu"
            )
        return f"cuda:{self.local_rank}"

    def stop_with_torchrun(self) -> None:
        """Ask the system for a SIGTERM when torchrun ends: after a SIGKILL it can't send one.

        So a rank saves and stops, instead of training on where nobody waits for it.
        """
        if self.id is not None and sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Context for the whole command: rank 0 speaks for all, others of what only they know.

        What all ranks refuse, rank 0 has said by the time that others would: torchrun ends them.
        """
        if not self.is_main:
            for handler in logging.getLogger().handlers:
                handler.setLevel(logging.WARNING)
                handler.setFormatter(logging.Formatter(f"rank {self.rank}: %(message)s"))
        try:
            yield
        except InputError as error:
            if self.is_main:
                raise
            time.sleep(SECONDS_FOR_RANK_0)
            raise InputError(f"rank {self.rank}: {error}") from error

    @contextlib.contextmanager
    def reading_flags(self) -> Iterator[None]:
        """Context for reading flags: rank 0 answers --help and wrong flags, for all."""
        if self.is_main:
            yield
            return
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                yield
            except SystemExit:
                time.sleep(SECONDS_FOR_RANK_0)
                raise

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and its output."""
        return self.rank == 0


def _unique_id(environment: Mapping[str, str], world_size: int) -> str | None:
    """What tells the starts by one torchrun from others'. The user gives several machines an id."""
    run_id = environment.get("TORCHELASTIC_RUN_ID")
    if run_id is None or _integer(environment, "LOCAL_WORLD_SIZE", 1) < world_size:
        return run_id
    return f"{run_id}-{socket.gethostname()}-{os.getppid()}"


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name}={text!r} is not a number; torchrun sets it") from error
