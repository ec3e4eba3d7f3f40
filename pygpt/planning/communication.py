"""What several GPUs exchange in a step, and the speed that it leaves: arithmetic, no measurement.

Sizes: w ranks, N parameters, fp32. A ring moves (w - 1)/w of a tensor over each link to gather or
to reduce-scatter it, and twice that to all-reduce it (Patarasuk and Yuan 2009, "Bandwidth optimal
all-reduce algorithms for clusters of workstations").
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from pygpt.config import GPTConfig

FP32 = 4

How = Literal["ddp", "fsdp"]


@dataclasses.dataclass(frozen=True)
class Network:
    """The links of one GPU, each way."""

    within: float
    """Bytes per second to the other GPUs of its machine."""
    between: float
    """Bytes per second to other machines."""
    gpus_per_machine: int = 8
    latency: float = 10e-6
    """Seconds of one hop, of which a collective over w ranks has log₂(w): an assumption."""

    def bandwidth(self, ranks: int) -> float:
        """Of the slowest link of a ring over all ranks."""
        return self.within if ranks <= self.gpus_per_machine else self.between


def bytes_per_step(model: GPTConfig, how: How, ranks: int, accumulation: int) -> float:
    """Bytes that each rank sends in a step.

    Args:
        model: its shape.
        how: "ddp" all-reduces the gradients once. "fsdp" gathers the weights in every micro-batch,
            those of a block for its forward and for its backward, and reduce-scatters the
            gradients once.
        ranks: w.
        accumulation: micro-batches a step of a rank.
    """
    share = (ranks - 1) / ranks
    n = model.n_params()
    if how == "ddp":
        return share * 2 * FP32 * n
    blocks = model.n_layer * model.n_params_of_block()
    return share * FP32 * ((n + blocks) * accumulation + n)


def step_seconds(
    model: GPTConfig,
    how: How,
    ranks: int,
    accumulation: int,
    compute: float,
    network: Network,
) -> float:
    """A step's time, with what is exchanged while something computes taken off.

    Args:
        model: its shape.
        how: see `bytes_per_step`.
        ranks: w.
        accumulation: micro-batches a step of a rank.
        compute: seconds that a rank computes in a step.
        network: its links.
    """
    if ranks == 1:
        return compute
    exchange = bytes_per_step(model, how, ranks, accumulation) / network.bandwidth(ranks)
    exchange += network.latency * math.log2(ranks) * _collectives(model, how, accumulation)
    # DDP exchanges in the backward, two thirds, of the last micro-batch; FSDP all the time.
    hidden = compute * (2 / 3 / accumulation if how == "ddp" else 1.0)
    return compute + max(0.0, exchange - hidden)


def _collectives(model: GPTConfig, how: How, accumulation: int) -> int:
    """How many a step has: DDP's buckets of 25 MiB, FSDP's blocks."""
    if how == "ddp":
        return math.ceil(FP32 * model.n_params() / (25 << 20))
    return (2 * model.n_layer + 1) * accumulation + model.n_layer + 1
