"""Recovers from a step that failed: out of memory, or a compiler that fails; on all ranks alike."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

from pygpt.planning.out_of_memory import is_out_of_memory
from pygpt.training.ranks import Ranks
from pygpt.utils.errors import InputError

T = TypeVar("T")


class Failure(enum.IntEnum):
    """Why a step failed. Of several ranks' failures the largest counts."""

    NONE = 0
    COMPILER = 1
    MEMORY = 2


class FailedElsewhereError(RuntimeError):
    """Another rank failed in this step."""

    def __init__(self, failure: Failure) -> None:
        super().__init__("on another rank")
        self.failure = failure


class Vote:
    """In which the ranks find out whether one of them failed.

    It has to be held before the micro-batch in which the ranks exchange gradients: a rank that
    failed takes no part in that, and the others would wait for it.
    """

    def __init__(self, ranks: Ranks, recovers: bool) -> None:
        self._ranks = ranks
        self._recovers = recovers
        self._held = False

    def succeeded(self) -> None:
        """Vote that this rank came as far as this.

        Raises:
            FailedElsewhereError: another rank did not.
        """
        self._held = True
        worst = self._ranks.largest(Failure.NONE)
        if worst:
            raise FailedElsewhereError(Failure(worst))

    def reopen(self) -> None:
        """Let the ranks vote once more."""
        self._held = False

    def failed(self, failure: Failure, reason: str) -> Failure:
        """Vote that this rank failed; the failure that all recover from.

        Raises:
            InputError: the vote was held already, so that the other ranks go on without this one.
        """
        if not self._recovers:
            return failure
        if not self._held:
            return Failure(self._ranks.largest(failure))
        if self._ranks.world_size > 1:
            raise InputError(
                f"rank {self._ranks.rank} failed while the ranks exchanged gradients ({reason}); "
                "go on with --resume and a smaller --micro-batch"
            )
        return failure


def retry(
    compute: Callable[[Vote], T],
    recover: Callable[[Failure, str], None],
    ranks: Ranks,
    *,
    agreed: bool = True,
) -> T:
    """Return `compute(vote)`; after each failure call `recover` and try again.

    Args:
        compute: can be repeated: what it changed before it failed, `recover` undoes. Calls
            `Vote.succeeded`, at most one more time after `Vote.reopen`.
        recover: is given the failure and the first line of its error; raises where nothing is left
            to try.
        ranks: that compute together.
        agreed: whether a rank that fails can wait for a vote; else it calls `recover` at once.
    """
    while True:
        vote = Vote(ranks, agreed)
        try:
            return compute(vote)
        except FailedElsewhereError as error:
            failure, reason = error.failure, str(error)
        except RuntimeError as error:
            failure, reason = failure_of(error), str(error).strip().partition("\n")[0]
            if failure is Failure.NONE:
                raise
            failure = vote.failed(failure, reason)
        # After the handler: the exception refers to frames, and those to tensors.
        recover(failure, reason)


def failure_of(error: RuntimeError) -> Failure:
    """What a run can recover from."""
    if is_out_of_memory(error):
        return Failure.MEMORY
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    return Failure.COMPILER if isinstance(error, TorchDynamoException) else Failure.NONE


def smaller_micro_batch(sequences: int, micro_batch: int) -> int:
    """The largest divisor of `sequences` that is at most half of `micro_batch`, which is > 1."""
    return max(n for n in range(1, micro_batch // 2 + 1) if sequences % n == 0)
