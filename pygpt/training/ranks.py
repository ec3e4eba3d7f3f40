"""The processes (ranks) of a run, and how they agree: by a few bytes over gloo each step.

What the ranks decide together (to stop, to halve the micro-batch) goes over a group of its own on
the CPU, so that no decision waits for a GPU. Gradients and weights take the default group: NCCL
between GPUs, gloo between CPUs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from pygpt.training.launch import Launch
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")

ROLL_CALL_SECONDS = 3.0
"""After a collective failed, the other ranks have this long to report that they are alive."""


class Ranks:
    """A run in one process: nothing to agree on. `JoinedRanks` has the same methods for several.

    Attributes:
        rank: number of this process.
        world_size: number of processes.
    """

    rank = 0
    world_size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and its output."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest value that any rank gives. All ranks call it, in the same order."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return bool(self.largest(int(flag)))

    def on_main(self, compute: Callable[[], T]) -> T:
        """What rank 0 computes, on every rank.

        Raises:
            InputError: rank 0 raised it.
        """
        return compute()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks of a tensor on the run's device, which is not waited for."""
        return value

    def sums(self, *values: float) -> list[float]:
        """The sum over the ranks of each value, in double precision."""
        return list(values)

    def check_same(self, fields: Mapping[str, Any]) -> None:
        """Compare what every rank gives.

        Raises:
            InputError: they differ; names the field and the first rank with another value.
        """


class JoinedRanks(Ranks):
    """The processes that torchrun started. Made by `joined`."""

    def __init__(self, launch: Launch, store: Store, timeout: timedelta) -> None:
        self.rank = launch.rank
        self.world_size = launch.world_size
        self._store = store
        self._timeout = timeout
        # new_group is collective: every rank makes the same groups in the same order.
        self._control = _gloo_group(timeout)
        self.checkpoint_group = _gloo_group(timeout)
        """For the thread that writes checkpoints."""

    def largest(self, value: int) -> int:
        """See `Ranks.largest`."""
        tensor = torch.tensor(value, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control)
        return int(tensor)

    def on_main(self, compute: Callable[[], T]) -> T:
        """See `Ranks.on_main`."""
        result: list[Any] = [None, None]
        if self.is_main:
            try:
                result = [compute(), None]
            except InputError as error:
                result = [None, error]
        dist.broadcast_object_list(result, src=0, group=self._control)
        value, refused = result
        if refused is not None:
            raise refused
        return cast(T, value)

    def mean(self, value: Tensor) -> Tensor:
        """See `Ranks.mean`."""
        dist.all_reduce(value)
        return value / self.world_size

    def sums(self, *values: float) -> list[float]:
        """See `Ranks.sums`."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._control)
        return [float(value) for value in tensor]

    def check_same(self, fields: Mapping[str, Any]) -> None:
        """See `Ranks.check_same`."""
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, dict(fields), group=self._control)
        for rank, theirs in enumerate(found):
            for name, value in found[0].items():
                if theirs[name] != value:
                    raise InputError(
                        f"rank {rank} has {name} = {theirs[name]}, and rank 0 has {value}; all "
                        "ranks need the same command, the same files and the same version"
                    )

    def _roll_call(self) -> list[int]:
        """Ranks that don't report within ROLL_CALL_SECONDS."""
        self._store.set(f"alive/{self.rank}", "")
        time.sleep(ROLL_CALL_SECONDS)
        everyone = range(self.world_size)
        return [rank for rank in everyone if not self._store.check([f"alive/{rank}"])]

    def lost(self, error: RuntimeError) -> InputError:
        """What to say of a collective that failed: a rank hangs or has ended.

        Waits for the ranks to report; those that don't are named.
        """
        try:
            missing = self._roll_call()
        except RuntimeError:  # the store is torchrun's, on the machine of rank 0
            missing = [0]
        names = ", ".join(f"rank {rank}" for rank in missing) or "none, they all answer now"
        return InputError(
            f"the ranks lost each other ({_first_line(error)}); they wait "
            f"{self._timeout.total_seconds():g} s for one another, see --rank-timeout. Missing: "
            f"{names}. Its own output may say why. --resume goes on from the newest checkpoint, "
            "and torchrun --max-restarts does so by itself"
        )


def _join(launch: Launch, device: torch.device, timeout: timedelta) -> JoinedRanks:
    """Meet the other ranks, and make the groups."""
    agent_store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # torchrun's store outlives a restart, with the addresses of processes that have ended.
    store = PrefixStore(f"pygpt/{launch.restarts}", agent_store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    return JoinedRanks(launch, store, timeout)


def _gloo_group(timeout: timedelta) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]


def _is_of_collective(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


@contextlib.contextmanager
def joined(launch: Launch, device: torch.device, seconds: float) -> Iterator[Ranks]:
    """Join the processes that torchrun started; leave them at the end.

    Args:
        launch: this process among them.
        device: what this process computes on.
        seconds: how long a collective waits for a rank.

    Raises:
        InputError: this PyTorch can't communicate between such devices; or, out of the block, a
            collective failed since a rank hangs or has ended, with its number.
    """
    if launch.world_size == 1:
        yield Ranks()
        return
    if device.type == "cuda" and not dist.is_nccl_available():
        raise InputError(
            "this build of PyTorch has no NCCL, which GPUs exchange gradients by; install a build "
            "with CUDA from pytorch.org, or train on one GPU without torchrun"
        )
    try:
        ranks = _join(launch, device, timedelta(seconds=seconds))
    except RuntimeError as error:
        if not _is_of_collective(error):
            raise
        raise InputError(
            f"the ranks did not find each other ({_first_line(error)}): one has ended or does not "
            "answer. Its own output may say why. Start all ranks again by the same command"
        ) from error
    try:
        yield ranks
    except RuntimeError as error:
        if not _is_of_collective(error):
            raise
        raise ranks.lost(error) from error
    dist.destroy_process_group()  # not after an error: it might wait for a rank that hangs
