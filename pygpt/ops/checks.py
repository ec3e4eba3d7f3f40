"""Checks of operands that several ops share."""

from __future__ import annotations

from torch import Tensor

# Messages are formatted only when raised: under torch.compile a shape that goes into a
# string is a constant from then on, and every other length would be compiled again.


def check_same_device(op: str, *tensors: Tensor) -> None:
    """Raise ValueError, naming `op`, unless all tensors are on one device."""
    if any(tensor.device != tensors[0].device for tensor in tensors):
        devices = ", ".join(str(tensor.device) for tensor in tensors)
        raise ValueError(f"{op}: operands are on different devices: {devices}")


def check_channel_vector(op: str, name: str, vector: Tensor | None, x: Tensor) -> None:
    """Raise ValueError unless `vector` is None or fits x (…, C): shape (C,), same device."""
    if x.dim() == 0:
        raise ValueError(f"{op}: x must be (…, C), got a scalar")
    if vector is None:
        return
    if vector.shape != x.shape[-1:]:
        raise ValueError(
            f"{op}: {name} {tuple(vector.shape)} must be ({x.size(-1)},), the last dimension of x "
            f"{tuple(x.shape)}"
        )
    check_same_device(op, x, vector)
