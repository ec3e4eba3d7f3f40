"""Tensors of which every rank holds a slice: written by all ranks at once, read on any number.

By torch.distributed.checkpoint (DCP), with its Hugging Face storage: each rank writes a
``.safetensors`` file of its slices, whose header says where in the whole tensor each begins.
DCP's own format is not used: its ``.metadata`` is a pickle, and no pickle is read here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from pygpt.hub import layout
from pygpt.hub.stored import StoredTensors
from pygpt.model import GPT
from pygpt.utils.errors import InputError

# DCP's warning where one process reads; it is what is meant here.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class Copier:
    """Copies slices into CPU memory, pinned where there is a GPU, and keeps that for the next."""

    def __init__(self) -> None:
        on_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
        )

    def copy(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copies that stay as they are while training goes on, until the next call."""
        return cast(dict[str, dict[str, Tensor]], self._stager.stage(dict(tensors)))


def save(tensors: Mapping[str, Tensor], directory: Path, group: dist.ProcessGroup) -> None:
    """Write every rank's slices below `directory`, a file for each rank. All ranks call it.

    Args:
        tensors: by name, the same on all ranks; `DTensor`s, or tensors that are equal on all.
        directory: exists, and all ranks see it.
        group: over which the ranks agree who writes what.

    Raises:
        OSError: on any of the ranks.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    try:
        dcp_save(contiguous, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise OSError(_reason(error)) from error


def load(tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Fill tensors, or this rank's slices of them, from the safetensors files of a directory.

    Under a process group all ranks call it.

    Args:
        tensors: by name, to be filled in place.
        directory: whole tensors, or what `save` wrote on any number of ranks.

    Raises:
        InputError: a tensor is missing or of another shape, or a file is damaged.
    """
    try:
        _read(tensors, directory, alone=not dist.is_initialized())
    except (CheckpointException, SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{directory} does not hold this run's tensors: {_reason(error)}"
        ) from error


def load_weights(model: GPT, directory: Path) -> None:
    """Fill this rank's slices of the weights from a ``model.safetensors``.

    Raises:
        InputError: it is missing or damaged, or of another model.
    """
    stored = StoredTensors.of_directory(directory)
    names = layout.match({name: stored.shape(name) for name in stored.names()}, model.config)
    state = model.state_dict()
    views = layout.to_hf(state, model.config)
    load({names[name]: view for name, view in views.items() if name in state}, directory)


def whole_weights(weights: Mapping[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Read whole tensors back from what `save` wrote; this process alone, into CPU memory.

    Args:
        weights: slices of this rank, which give names, shapes and dtypes.
        directory: what all ranks wrote.
    """
    whole = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in weights.items()
    }
    _read(whole, directory, alone=True)
    return whole


def _read(tensors: Mapping[str, Tensor], directory: Path, *, alone: bool) -> None:
    reader = HuggingFaceStorageReader(str(directory))
    dcp_load(dict(tensors), storage_reader=reader, no_dist=alone)


def _reason(error: BaseException) -> str:
    """The last line of an error, which of DCP's is what went wrong on a rank."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (inner, _) = next(iter(failures.items()))
        return f"on rank {rank}: {inner}"
    return str(error).strip().rpartition("\n")[2]
