"""AdamW on the host: fp32 weights and moments in host memory, not in the GPU's.

AdamW reads and writes all 16 bytes of a parameter (weight, gradient, two moments) once a step.
Forward and backward need its weight and gradient in every micro-batch. So the device holds those,
and the host the rest::

    device   weights of linear layers in bf16, all others (embeddings, norms, biases) in fp32;
             sums of their gradients in fp32
    host     master weights in fp32 and AdamW's two moments

(Ren et al. 2021, "ZeRO-Offload", sections 3 and 4, for one device and without delayed updates.)

The arithmetic is the same as without it: a weight in bf16 is what autocast makes of the fp32 weight
in every micro-batch, its gradient is bf16 either way, and micro-batches are summed in fp32 either
way. On a CPU a run is bitwise equal with and without offloading.

Gradients and weights pass through pinned memory in parts, a part being an embedding or a block:
while one is updated, the next is copied.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from pygpt.config import TrainConfig
from pygpt.model import GPT
from pygpt.training.optimizer import Updater, clip_gradients, set_learning_rate

Part = list[tuple[nn.Parameter, nn.Parameter]]
"""Parameters that are copied together, as pairs (on the device, on the host)."""


class OffloadedUpdater(Updater):
    """AdamW over fp32 master weights on the host, with the interface of `Updater`.

    Args:
        model: on the device, in fp32, to be trained under bf16 autocast. The weights of its linear
            layers become bf16 here; gradients are summed outside of `Parameter.grad`.
        config: the run.
    """

    def __init__(self, model: GPT, config: TrainConfig) -> None:
        super().__init__(_copy_to_host(model), config)
        self._model = model
        self._device = model.wte.weight.device
        self._parts = _parts(model, self.weights)
        self._sums: dict[Tensor, Tensor] = {}
        """Sums of the gradients of the micro-batches so far, by device parameter, in fp32."""
        self._drop_from_device()
        in_gemms = {m.weight for m in model.modules() if isinstance(m, nn.Linear)}
        for parameter, host in itertools.chain(*self._parts):
            dtype = torch.bfloat16 if parameter in in_gemms else torch.float32
            parameter.data = torch.empty_like(host, dtype=dtype, device=self._device)
            parameter.grad_dtype = None  # bf16 after a backward, fp32 in `step`
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self._add_gradient
            )
            self._sums[parameter] = torch.zeros_like(host, device=self._device)
        self.sync_to_model()
        largest = max(sum(host.numel() for _, host in part) for part in self._parts)
        self._slots = [_Slot(largest, self._device) for _ in range(2)]

    def clip_gradients(self, max_norm: float) -> Tensor:
        """See `Updater.clip_gradients`."""
        for parameter, total in self._sums.items():
            parameter.grad = total
        return clip_gradients(self._model.parameters(), max_norm)

    def step(self, lr: float) -> None:
        """See `Updater.step`. Waits for the gradients, and so for the step's backward."""
        set_learning_rate(self.optimizer, lr)
        slots = itertools.cycle(self._slots)
        current = next(slots)
        current.fetch(self._parts[0], self._sums)
        for upcoming in (*self._parts[1:], None):
            following = next(slots)
            if upcoming:
                following.fetch(upcoming, self._sums)
            current.set_host_gradients()
            self.optimizer.step()  # skips parameters without a gradient: all but this part's
            current.send()
            current = following

    def zero_grad(self) -> None:
        """See `Updater.zero_grad`. The sums keep their memory."""
        for parameter, total in self._sums.items():
            parameter.grad = None
            total.zero_()

    def sync_to_model(self) -> None:
        """See `Updater.sync_to_model`."""
        with torch.no_grad():
            for parameter, host in itertools.chain(*self._parts):
                parameter.copy_(host)

    def release(self) -> None:
        """See `Updater.release`."""
        self._drop_from_device()
        for parameter, host in itertools.chain(*self._parts):
            parameter.data = host.data.to(self._device)

    def _add_gradient(self, parameter: Tensor) -> None:
        """Add to the sum in one pass; autograd's own accumulation would first copy to fp32."""
        assert parameter.grad is not None
        self._sums[parameter] += parameter.grad
        parameter.grad = None

    def _drop_from_device(self) -> None:
        """Free weights and sums before their replacements are allocated: less fragmentation."""
        self._sums.clear()
        for parameter in self._model.parameters():
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def build_updater(model: GPT, config: TrainConfig) -> Updater:
    """The updater of a run, on the device or on the host."""
    return (OffloadedUpdater if config.offload_optimizer else Updater)(model, config)


class _Slot:
    """Pinned memory of one part: of its gradients on their way in, then of its new weights.

    All copies of a step are in one stream, in the order of the calls. That makes two slots safe:
    when the gradients of a part have arrived, the weights sent from that slot before have left it.
    """

    def __init__(self, elements: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._memory = torch.empty(elements, pin_memory=cuda)
        self._arrived = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        self._part: Part = []
        self._places: tuple[Tensor, ...] = ()

    def fetch(self, part: Part, gradients: dict[Tensor, Tensor]) -> None:
        """Start to copy the gradients of `part` here, given by the device's parameter."""
        self._part = part
        sizes = [host.numel() for _, host in part]
        self._places = torch.split(self._memory[: sum(sizes)], sizes)
        for (parameter, _), place in zip(part, self._places, strict=True):
            place.view_as(parameter).copy_(gradients[parameter], non_blocking=True)
        if self._arrived:
            self._arrived.record()

    def set_host_gradients(self) -> None:
        """Wait for the copied gradients and make them those of the host's parameters."""
        if self._arrived:
            self._arrived.synchronize()
        for (_, host), place in zip(self._part, self._places, strict=True):
            host.grad = place.view_as(host)

    @torch.no_grad()
    def send(self) -> None:
        """Start to copy the host's weights to the device, through the memory of their gradients."""
        for (parameter, host), place in zip(self._part, self._places, strict=True):
            host.grad = None
            weight = place.view(parameter.dtype)[: host.numel()].view_as(parameter)
            parameter.copy_(weight.copy_(host), non_blocking=True)


def _copy_to_host(model: GPT) -> GPT:
    with torch.device("meta"):  # no memory for initial weights, which are replaced below
        weights = GPT(model.config, model.impl)
    state = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    weights.load_state_dict(state, assign=True)
    return weights


def _parts(model: GPT, weights: GPT) -> list[Part]:
    on_device, on_host = ([each.wte, each.wpe, *each.h, each.ln_f] for each in (model, weights))
    return [
        list(zip(module.parameters(), host.parameters(), strict=True))
        for module, host in zip(on_device, on_host, strict=True)
    ]
