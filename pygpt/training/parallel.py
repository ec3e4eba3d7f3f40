"""One model on several ranks, applied from outside: `GPT` knows nothing of it.

- DDP (Li et al. 2020, arXiv:2006.15704): every rank holds the model and the optimizer, and
  gradients are averaged in the backward of a step's last micro-batch.
- FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023, arXiv:2304.11277): every rank holds
  a slice of each weight and of its moments. The weights of a block are gathered when it computes.
  Gradients stay whole until the last micro-batch, whose backward leaves each rank its slice.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pygpt.model import GPT

Loss = Callable[[Tensor, Tensor], Tensor]

COMPILE: dict[str, Any] = {"dynamic": False, "options": {"deterministic": True}}
"""How torch.compile compiles, so that a resumed run computes the same bits: kernels are chosen by
rule and not by time, and a shape has the same code whatever shapes came before it."""


class OneDevice:
    """The loss of a model in one process.

    Args:
        model: on the device to train on.
        device: that device.
        dtype: of the GEMMs' inputs.
        compiled: whether it runs through torch.compile.

    Attributes:
        loss: inputs and targets of a micro-batch → their mean loss, a scalar.
        recovers: whether a rank that fails in a micro-batch leaves no other rank waiting.
        rehearses: whether a micro-batch of a new size is first computed without other ranks.
    """

    recovers = True
    rehearses = False

    def __init__(
        self, model: GPT, device: torch.device, dtype: torch.dtype, compiled: bool
    ) -> None:
        self._model = model
        self._eager = _mean_loss(model, dtype)
        self.loss: Loss = torch.compile(self._eager, **COMPILE) if compiled else self._eager

    def stop_compiling(self) -> None:
        """Use the model as it is from here on."""
        self.loss = self._eager

    def micro_batch(self, synchronise: bool) -> contextlib.AbstractContextManager[None]:
        """Context for forward and backward of a micro-batch.

        Args:
            synchronise: whether the backward exchanges gradients with other ranks: in the last
                micro-batch of a step, where they are complete.
        """
        return contextlib.nullcontext()


class DataParallel(OneDevice):
    """The loss of a model of which every rank has a copy, with gradients averaged (DDP)."""

    rehearses = True

    def __init__(
        self, model: GPT, device: torch.device, dtype: torch.dtype, compiled: bool
    ) -> None:
        super().__init__(model, device, dtype, compiled=False)
        module = _Loss(model, self._eager)
        self._wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)
        self._eager = self._wrapped
        self.loss = cast(
            Loss, torch.compile(self._wrapped, **COMPILE) if compiled else self._wrapped
        )

    def micro_batch(self, synchronise: bool) -> contextlib.AbstractContextManager[None]:
        """See `OneDevice.micro_batch`."""
        return contextlib.nullcontext() if synchronise else self._wrapped.no_sync()


class FullySharded(OneDevice):
    """The loss of a model whose weights are sliced over the ranks (FSDP2).

    A rank that fails in a block leaves the others waiting for its slice: nothing recovers then.
    """

    recovers = False

    def __init__(
        self, model: GPT, device: torch.device, dtype: torch.dtype, compiled: bool
    ) -> None:
        # FSDP2 takes half a second to import, which a run in one process does not pay.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # A block's outputs are not changed in place, which this warns of.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for block in model.h:
            fully_shard(block, mesh=mesh)
            if compiled:
                block.compile(**COMPILE)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")
        super().__init__(model, device, dtype, compiled=False)

    def micro_batch(self, synchronise: bool) -> contextlib.AbstractContextManager[None]:
        """See `OneDevice.micro_batch`."""
        cast(Any, self._model).set_requires_gradient_sync(synchronise)
        return contextlib.nullcontext()


class _Loss(nn.Module):
    """A loss as the forward of a module, which is what DDP wraps."""

    def __init__(self, model: GPT, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self._loss(x, y)


def _mean_loss(model: GPT, dtype: torch.dtype) -> Loss:
    """`GPT.loss`. In float16 the gradients that it computes in the forward would underflow if they
    were divided by the number of targets: the sum is divided, after the loss was scaled.
    """
    if dtype != torch.float16:
        return model.loss
    return lambda x, y: model.loss(x, y, "sum") / (y >= 0).sum()


def parallelize(
    model: GPT,
    how: Literal["none", "ddp", "fsdp"],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> OneDevice:
    """Spread a model over the ranks, in place. Optimizers are made afterwards.

    Args:
        model: with the same weights on all ranks; on `device`, or for FSDP on the CPU.
        how: see above; "none" is one process.
        device: of this rank.
        dtype: of the GEMMs' inputs.
        compiled: whether it runs through torch.compile.
    """
    kinds = {"none": OneDevice, "ddp": DataParallel, "fsdp": FullySharded}
    return kinds[how](model, device, dtype, compiled)
