"""What a run reads: its datasets, checked against its configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pygpt.config import TrainConfig, padded_vocab_size
from pygpt.config.data_parts import DataPart
from pygpt.data.mixture import Split, open_split, parts_of
from pygpt.data.rows import tokens_per_epoch
from pygpt.data.writer import prepare_stdlib
from pygpt.evaluation.loss import windows_of
from pygpt.tokenizers.bytes import ByteTokenizer
from pygpt.utils.errors import InputError

STDLIB_DATA = Path("data/stdlib-bytes")


def prepare_default(config: TrainConfig) -> None:
    """Make the corpus of the presets that have one, where it is missing."""
    if not config.data and config.preset.startswith("stdlib") and not STDLIB_DATA.exists():
        prepare_stdlib(STDLIB_DATA, "bytes")


def open_data(config: TrainConfig) -> tuple[Split, Split]:
    """The training and the validation split.

    Raises:
        InputError: no dataset is named, or it can't be used.
    """
    parts = config.data_parts
    if not parts:
        if not config.preset.startswith("stdlib"):
            raise InputError(
                f"preset {config.preset} needs --data DIR: a directory from "
                "python -m pygpt.prepare text PATH, or one with nanoGPT's train.bin and val.bin"
            )
        parts = (DataPart(STDLIB_DATA),)
    train, val = (open_split(parts, name, config.tokenizer) for name in ("train", "val"))
    return train, val


def absolute_parts(config: TrainConfig) -> list[DataPart]:
    """The datasets of a run, as they are stored with it."""
    parts = config.data_parts or (DataPart(STDLIB_DATA),)
    return [dataclasses.replace(part, path=part.path.absolute()) for part in parts]


def data_of(*splits: Split) -> list[dict[str, Any]]:
    """What ``run.json`` records of the data: path, share, size and checksum of each dataset."""
    return [
        {
            "path": str(dataset.path),
            "split": dataset.split,
            "share": round(float(share), 6),
            "tokens": len(dataset),
            "sha256": dataset.checksum,
        }
        for split in splits
        for dataset, share in parts_of(split)
    ]


def vocab_size_of(config: TrainConfig) -> int | None:
    """Rows of the embedding table, where they are known without preparing anything."""
    if config.data:
        split = open_split(config.data_parts, "train", config.tokenizer)
        return padded_vocab_size(split.tokenizer.n_vocab)
    if config.preset.startswith("stdlib"):
        return padded_vocab_size(ByteTokenizer().info.n_vocab)
    return None


def check_sizes(config: TrainConfig, train_split: Split, val_split: Split) -> None:
    """Hold the batch and the windows against the splits.

    Raises:
        InputError: a split is too small, or the windows don't go with dialogues.
    """
    if config.batch_tokens > len(train_split):
        raise InputError(
            f"batch_tokens={config.batch_tokens} is more than the {len(train_split)} tokens of the "
            "train split; give a smaller --batch-tokens or more text"
        )
    if config.block_warmup_steps and train_split.tokenizer.chat:
        raise InputError(
            f"block_warmup_steps={config.block_warmup_steps} cuts windows of text; rows of "
            "dialogues are not cut: leave it out"
        )
    for split in (train_split, val_split):
        for dataset, _ in parts_of(split):
            windows_of(dataset, config.block_size, None, config.eval_tokens)


def limit_epochs(config: TrainConfig, split: Split) -> TrainConfig:
    """The configuration with max_steps for its epochs; those of a resumed run are in its steps.

    Of a mixture, an epoch ends when the part that is used up first was seen once.
    """
    if config.epochs is None:
        return config
    per_epoch = min(
        tokens_per_epoch(dataset, config.block_size) / float(share)
        for dataset, share in parts_of(split)
    )
    steps = max(1, round(config.epochs * per_epoch / config.batch_tokens))
    return dataclasses.replace(config, max_steps=min(config.max_steps, steps), epochs=None)
