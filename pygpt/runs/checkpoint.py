"""A checkpoint on disk: a directory that Hugging Face loads, plus what training needs to go on.

::

    step-00000500/
      config.json             the model's shape, its tokenizer, its kernels
      generation_config.json  ids that are never sampled
      tokenizer.json …        the tokenizer, as others read it (`pygpt.hub.tokenizer_files`)
      model.safetensors       weights, fp32
      optimizer.safetensors   state of the optimizer, as PARAMETER/KEY; or optimizer/, which holds a
                              file of each rank where they sliced it (`pygpt.runs.sharded`)
      average/                a directory of the same kind, with the average of the weights (EMA)
      trainer.json            step, validation loss, checksum of the text

It is written under another name, flushed and renamed: a directory with this name is complete. There
is no state of random numbers: batches and dropout are functions of the seed and the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pygpt.config import GPTConfig
from pygpt.hub import huggingface, layout
from pygpt.hub.stored import StoredTensors
from pygpt.model import GPT
from pygpt.ops.dispatch import launch_table
from pygpt.runs.run import AVERAGE, CHECKPOINT_PREFIX, list_checkpoints, newest_is_safe
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.files import PARTIAL, replacing
from pygpt.utils.json_file import build, parse

logger = logging.getLogger(__name__)

OPTIMIZER_FILE = "optimizer.safetensors"
OPTIMIZER_SLICES = "optimizer"
"""Directory of the optimizer's state, where the ranks of a run each wrote their slices."""


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """Where training stands."""

    step: int
    """Optimiser steps done."""
    val_loss: float | None
    """Validation loss of these weights, nats per token, where it was measured."""
    train_checksum: str | None = None
    """`TokenDataset.checksum` of the train split; older checkpoints lack it."""
    scaling: dict[str, float] | None = None
    """State of float16's loss scaling."""
    skipped_steps: int = 0
    """Steps in which float16 overflowed."""

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step {self.step} is below 0")

    def fields(self) -> dict[str, Any]:
        """The content of ``trainer.json``; what only float16 has is left out elsewhere."""
        fields = dataclasses.asdict(self)
        if self.scaling is None:
            del fields["scaling"], fields["skipped_steps"]
        return fields


@dataclasses.dataclass(frozen=True)
class Content:
    """What a checkpoint holds. The tensors are those of the run, or copies of them on the CPU."""

    config: GPTConfig
    weights: dict[str, Tensor]
    """State dict of the model."""
    optimizer: dict[str, Tensor]
    """State of the optimizer, as PARAMETER/KEY."""
    files: dict[str, str]
    """Name → text of all other files."""
    state: TrainerState
    average: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """State dict of the averaged weights, where there are any."""

    @property
    def nbytes(self) -> int:
        """Of the tensors."""
        groups = (self.weights, self.optimizer, self.average)
        return sum(tensor.nbytes for group in groups for tensor in group.values())

    def to_hf(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a ``model.safetensors``: fp32, on the CPU, contiguous."""
        tensors = layout.to_hf(weights, self.config)
        return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}


def content(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    tokenizer: TokenizerInfo,
    state: TrainerState,
    *,
    average: GPT | None = None,
) -> Content:
    """What to write of a run as it stands; the tensors are not copied."""
    files = huggingface.describing_files(model, tokenizer)
    files["trainer.json"] = huggingface.json_text(state.fields())
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return Content(
        config=model.config,
        weights=weights,
        optimizer=optimizer_tensors(model, optimizer),
        files=files,
        state=state,
        average=dict(average.state_dict()) if average else {},
    )


def save(
    directory: Path,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    tokenizer: TokenizerInfo,
    state: TrainerState,
) -> Path:
    """Write the checkpoint of one step below `directory`; return its path.

    Raises:
        InputError: see `write`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return write(directory, content(model, optimizer, tokenizer, state))


def write(directory: Path, content: Content) -> Path:
    """Write a checkpoint below `directory`; return its path.

    Raises:
        InputError: it could not be written (a full disk). Nothing of it is left and older
            checkpoints are untouched.
    """
    with writing(directory, content.state.step) as partial:
        write_whole(partial, content)
    return path_of(directory, content.state.step)


def path_of(directory: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return directory / f"{CHECKPOINT_PREFIX}{step:08d}"


@contextlib.contextmanager
def writing(directory: Path, step: int) -> Iterator[Path]:
    """A new directory to write the checkpoint of a step in; it gets its name at the end.

    Raises:
        InputError: see `write`.
    """
    try:
        # Without parents: a disk that was unmounted must not be replaced by a directory.
        directory.mkdir(exist_ok=True)
        with replacing(path_of(directory, step)) as partial:
            partial.mkdir()
            yield partial
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"the checkpoint of step {step} could not be written to {directory} ({error}); "
            f"{newest_is_safe(directory)}. Fix that, or make room, and go on with --resume"
        ) from error


def write_whole(directory: Path, content: Content) -> None:
    """Write all files into `directory`."""
    write_model(directory, content, content.weights)
    if content.average:
        write_model(directory / AVERAGE, content, content.average)
    tensors = {name: value.cpu().contiguous() for name, value in content.optimizer.items()}
    safetensors.torch.save_file(tensors, directory / OPTIMIZER_FILE)


def write_model(directory: Path, content: Content, weights: dict[str, Tensor]) -> None:
    """Write a model directory with all files that are not the optimizer's."""
    directory.mkdir(exist_ok=True)
    for name, text in content.files.items():
        (directory / name).write_text(text, encoding="utf-8")
    tensors = content.to_hf(weights)
    safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def is_sliced(model: GPT) -> bool:
    """Whether every rank holds slices of the model's weights: they are `DTensor`s, of FSDP."""
    return hasattr(model.wte.weight, "device_mesh")


def optimizer_tensors(model: GPT, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of the optimizer, as PARAMETER/KEY; not copied."""
    return {
        f"{name}/{key}": value.detach()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_training(
    path: Path, model: GPT, optimizer: torch.optim.Optimizer, tokenizer: TokenizerInfo
) -> TrainerState:
    """Copy a checkpoint into `model` and `optimizer`, one tensor after the other.

    Memory: 16 MiB of a file at a time (`pygpt.hub.stored.CHUNK_BYTES`) beside the model and the
    optimizer that are there.

    Returns:
        Where training stood.

    Raises:
        InputError: a damaged checkpoint, or one of another model, optimizer or tokenizer. The
            weights may then be partly those of the checkpoint.
    """
    state = read_state(path)
    try:
        config, stored_tokenizer = huggingface.read_config(path)
    except InputError as error:
        raise InputError(f"{error}; {_way_out(path)}") from error
    if stored_tokenizer != tokenizer:
        raise InputError(
            f"{path} was trained on ids of the tokenizer {stored_tokenizer.name!r}, and the "
            f"dataset holds ids of {tokenizer.name!r}; give the --data it was trained on"
        )
    if config != dataclasses.replace(model.config, dropout=config.dropout):
        raise InputError(f"{path} holds {config}, and this run trains {model.config}")
    _compare_launch_tables(huggingface.stored_launch_table(path), launch_table(model.impl))
    slices = path / OPTIMIZER_SLICES
    try:
        if slices.is_dir() or is_sliced(model):
            from pygpt.runs import sharded  # takes half a second to import

            sharded.load_weights(model, path)
            tensors = optimizer_tensors(model, optimizer)
            sharded.load(tensors, slices if slices.is_dir() else path)
        else:
            huggingface.load_into(model, path)
            _load_optimizer(path / OPTIMIZER_FILE, model, optimizer)
    except InputError as error:
        raise InputError(f"{error}; {_way_out(path)}") from error
    return state


@torch.no_grad()
def _load_optimizer(file: Path, model: GPT, optimizer: torch.optim.Optimizer) -> None:
    stored = StoredTensors([file])
    there = set(stored.names())
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            full = f"{name}/{key}"
            if full not in there or stored.shape(full) != value.shape:
                raise InputError(
                    f"{file} has no {full} of shape {tuple(value.shape)}, which "
                    f"{type(optimizer).__name__} needs"
                )
            stored.copy_into(full, value)
            huggingface.check_finite(full, value)


def _compare_launch_tables(before: str | None, now: str | None) -> None:
    """Say so if a resumed run sums in another order than it did."""
    if before and now and before != now:
        logger.warning(
            "the checkpoint was trained with the launch table %s, and this start takes %s: sums in "
            "another order, so the run is not to the last bit what it would have been",
            before,
            now,
        )


def read_state(path: Path) -> TrainerState:
    """The ``trainer.json`` of a checkpoint.

    Raises:
        InputError: it is missing or damaged.
    """
    file = path / "trainer.json"
    try:
        return build(TrainerState, parse(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); {_way_out(path)}") from error


def _way_out(path: Path) -> str:
    return f"delete or move {path}, then --resume takes the checkpoint before it"


def prune(directory: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints and the one with the lowest validation loss."""
    paths = list_checkpoints(directory)
    losses = {path: read_state(path).val_loss for path in paths}
    measured = {path: loss for path, loss in losses.items() if loss is not None}
    best = min(measured, key=lambda path: measured[path]) if measured else None
    for path in paths[:-keep]:
        if path != best:
            _delete(path)


def _delete(path: Path) -> None:
    """Delete a checkpoint. It is renamed first, so that a partly deleted one is never loaded."""
    shutil.rmtree(path.rename(path.with_name(f"{PARTIAL}deleted-{path.name}")))
