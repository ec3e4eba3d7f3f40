"""How many processes of a CPU share a step, and their micro-batch; see `pygpt.training.workers`."""

from __future__ import annotations

import dataclasses
import os

from pygpt.config import GPTConfig, TrainConfig
from pygpt.planning.memory import Plan

MIN_OPERATIONS = 1e12
"""Of a run that gets workers: they take two seconds to start."""

# Measured on one core, 4 layers, 128 wide, 384 ids: 34 ms with 768 tokens, 61 ms with 1,536.
TOKENS_OF_A_CALL = 200
"""Tokens whose computation takes as long as what a micro-batch costs whatever its size."""


def can_share(config: TrainConfig, model: GPTConfig, device_type: str) -> bool:
    """Whether local workers can compute micro-batches of a run in one process, and it is worth it.

    Not with dropout, whose masks are drawn from one sequence of random numbers over a step; nor
    where gradients are not summed in fp32 in `Parameter.grad`.
    """
    operations = config.max_steps * config.batch_tokens * model.flops_per_token()
    return (
        device_type == "cpu"
        and os.name == "posix"
        and not config.dropout
        and not config.offload_optimizer
        and config.compile is not True
        and operations >= MIN_OPERATIONS
    )


def share_step(
    plan: Plan, asked: int | None, threads: int, free: int, limit: str = ""
) -> tuple[int, int]:
    """Processes and micro-batch of a step, to be done soonest in `free` bytes.

    Args:
        plan: of one process.
        asked: the micro-batch; None is free to choose.
        threads: that there are for all processes.
        free: bytes of free memory.
        limit: what leaves no more, such as "ulimit -v of 2.00 GiB".

    Returns:
        The number of processes, 1 where more don't fit, and the micro-batch of each.

    Raises:
        InputError: not even one sequence fits.
    """
    alone = asked or plan.largest_micro_batch(free, limit)
    sizes = [asked] if asked else [n for n in range(1, alone + 1) if plan.sequences % n == 0]

    def cost(size: int) -> float:
        rounds = -(-(plan.sequences // size) // threads)
        return rounds * (size * plan.model.block_size + TOKENS_OF_A_CALL)

    for size in sorted(sizes, key=cost):
        processes = min(threads, plan.sequences // size)
        shared = dataclasses.replace(plan, workers=processes)
        if processes > 1 and shared.fits(size, free):
            return processes, size
    return 1, alone
