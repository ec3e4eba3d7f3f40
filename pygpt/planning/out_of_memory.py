"""Whether an error says that memory ran out: it comes in the words of many libraries."""

from __future__ import annotations

import torch

_TEXTS = (
    "CUDA error: out of memory",  # torch.AcceleratorError, where the driver has no more
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says where its handle finds no room
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in _TEXTS)
