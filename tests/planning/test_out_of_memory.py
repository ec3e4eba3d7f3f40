"""Out of memory, in the words of every library that can run out of it."""

from __future__ import annotations

import pytest
import torch

from pygpt.planning.out_of_memory import is_out_of_memory
from pygpt.training.recovery import Failure, failure_of


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    assert failure_of(error) is Failure.MEMORY


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: invalid argument"),
        ValueError("memory"),
    ],
)
def test_other_errors(error: Exception) -> None:
    assert not is_out_of_memory(error)
