"""pygpt and nanoGPT interleaved on one machine: speed, memory and loss on the same data.

    python -m pygpt.prepare --out data/stdlib-gpt2
    python bench/compare_nanogpt.py --nanogpt DIR
    python -m pygpt.prepare --tokenizer bytes --out data/stdlib-bytes
    python bench/compare_nanogpt.py --nanogpt DIR --same-time --data data/stdlib-bytes

DIR is a checkout of nanoGPT. Its ``model.py`` is imported from there; ``lib/worker.py`` has a loop
like that of its ``train.py``.

Without ``--same-time`` every worker trains the same shape for the same number of steps, and the
workers take turns of a few steps. With it, pygpt's default CPU run and nanoGPT's CPU recipe
(4 layers, 4 heads, 128 wide, context 64, batch 12, rate 1e-3) get the same time, and the validation
losses are compared.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch
import tyro
from lib import nanogpt, report
from lib.emulated import left_out
from lib.interleaved import Spread
from lib.sides import Side
from rich.progress import Progress

from pygpt.config import from_preset
from pygpt.data import TokenDataset
from pygpt.utils import cli
from pygpt.utils.errors import InputError

WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare pygpt with nanoGPT in one run."""

    nanogpt: Path
    """A checkout of nanoGPT."""
    data: Path = Path("data/stdlib-gpt2")
    """Dataset directory with train.bin and val.bin in uint16."""
    steps: int = 40
    """Steps of each side, after a warm-up of 2."""
    turn: int = 2
    """Steps in one turn."""
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    block_size: int = 512
    sequences: int = 4
    """Sequences a step."""
    micro_batch: int = 4
    """Sequences at once."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    same_time: bool = False
    """Compare the validation losses after the same time; see above."""
    seed: int = 1337
    """Of weights and batches."""
    json: Path | None = None
    """Where to write the figures."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, description=__doc__)
    nanogpt.check(options.nanogpt)
    _check_data(options)
    fields = same_time(options) if options.same_time else same_steps(options)
    if options.json:
        device = torch.device("cpu" if options.same_time else options.device)
        report.write_json(options.json, device, fields)


def _check_data(options: Options) -> None:
    """Open the dataset before the workers do, so that an error is one line.

    Raises:
        InputError: it can't be used.
    """
    if not options.data.exists():
        tokenizer = ["--tokenizer", "bytes"] if options.same_time else []
        prepare = cli.command("prepare", *tokenizer, "--out", options.data)
        raise InputError(f"there is no {options.data}; {prepare} makes it")
    for split in ("train", "val"):
        TokenDataset(options.data, split)


# --- the same steps -------------------------------------------------------------------------------


def same_steps(options: Options) -> dict[str, Any]:
    """Tokens/s, peak memory and loss of every way to train the same model."""
    config: dict[str, Any] = {
        "n_layer": options.n_layer, "n_head": options.n_head, "n_embd": options.n_embd,
        "block_size": options.block_size, "bias": False,
        "batch_tokens": options.sequences * options.block_size,
        "micro_batch": options.micro_batch,
        "max_steps": options.steps + WARM_UP, "warmup_steps": max(1, options.steps // 10),
        "learning_rate": 6e-4, "min_lr": 6e-5, "seed": options.seed,
    }  # fmt: skip
    base = {
        "data": str(options.data), "device": options.device, "config": config,
        "nanogpt": str(options.nanogpt),
    }  # fmt: skip
    ways = {
        "nanoGPT": {"side": "nanogpt", "dtype": "float32", "compile": False},
        "nanoGPT, compiled": {"side": "nanogpt", "dtype": "float32", "compile": True},
        "nanoGPT, bf16": {"side": "nanogpt", "dtype": "bfloat16", "compile": False},
        "nanoGPT, bf16, compiled": {"side": "nanogpt", "dtype": "bfloat16", "compile": True},
        "pygpt": {"side": "pygpt", "dtype": "auto", "compile": False},
        "pygpt, fp32": {"side": "pygpt", "dtype": "float32", "compile": False},
        "pygpt, compiled": {"side": "pygpt", "dtype": "auto", "compile": True},
    }
    dtypes = {name: str(way["dtype"]) for name, way in ways.items()}
    skipped = left_out(dtypes, torch.device(options.device))
    sides = [Side(name, {**base, **way}) for name, way in ways.items() if name not in skipped]
    for side in sides:
        side.train(WARM_UP)
        side.seconds.clear()
    with Progress() as progress:
        for _ in progress.track(range(options.steps // options.turn), description="training"):
            for side in sides:
                side.train(options.turn)
    rows = [_summary(side, config["batch_tokens"], options) for side in sides]
    for side in sides:
        side.close()
    _print_steps(rows, torch.device(options.device))
    return {"config": config, "left_out": skipped, "results": rows}


def _summary(side: Side, batch_tokens: int, options: Options) -> dict[str, Any]:
    tail = side.losses[-max(1, options.steps // 4) :]
    return {
        "name": side.name,
        "how": side.description,
        "tokens_per_second": dataclasses.asdict(
            Spread.of(batch_tokens / seconds for seconds in side.seconds)
        ),
        "peak_memory": side.peak_memory,
        "train_loss": statistics.fmean(tail),
        "train_loss_spread": statistics.pstdev(tail),
        "val_loss": side.evaluate(2**15),
        "losses": side.losses,
    }


def _print_steps(rows: list[dict[str, Any]], device: torch.device) -> None:
    rates = {row["name"]: Spread(**row["tokens_per_second"]) for row in rows}
    default = rates["nanoGPT"].median
    best = max(rate.median for name, rate in rates.items() if name.startswith("nanoGPT"))
    report.print_table(
        f"same data, same shape, same steps: {report.headline(device)}",
        ("", "tokens/s", "20–80 %", "× default", "× its best", "peak MB", "train", "val"),
        [
            (
                row["name"],
                *report.cells(rates[row["name"]], decimals=0),
                f"{rates[row['name']].median / default:.2f}",
                f"{rates[row['name']].median / best:.2f}",
                f"{row['peak_memory'] / 1e6:,.0f}",
                f"{row['train_loss']:.3f} ± {row['train_loss_spread']:.3f}",
                f"{row['val_loss']:.3f}",
            )
            for row in rows
        ],
    )


# --- the same time --------------------------------------------------------------------------------


def same_time(options: Options) -> dict[str, Any]:
    """Train pygpt's default CPU run and nanoGPT's CPU recipe for the same time on the same data."""
    turns = 20
    preset = dataclasses.asdict(from_preset("stdlib-cpu"))
    recipe: dict[str, Any] = {
        "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "bias": False,
        "batch_tokens": 12 * 64, "micro_batch": 12, "warmup_steps": 100,
        "learning_rate": 1e-3, "min_lr": 1e-4, "beta2": 0.99, "max_steps": 1000,
    }  # fmt: skip
    preset["seed"] = recipe["seed"] = options.seed
    base = {"data": str(options.data), "device": "cpu", "compile": False}
    our_task = {**base, "side": "pygpt", "dtype": "auto", "config": preset}
    their_task = {
        **base, "side": "nanogpt", "dtype": "float32", "config": recipe,
        "nanogpt": str(options.nanogpt),
    }  # fmt: skip
    recipe["max_steps"] = int(preset["max_steps"] * _seconds_ratio(our_task, their_task))
    ours, theirs = Side("pygpt", our_task), Side("nanoGPT", their_task)
    spent = {ours.name: 0.0, theirs.name: 0.0}
    with Progress() as progress:
        for i in progress.track(range(turns), description="training, interleaved"):
            for side, total in ((ours, preset["max_steps"]), (theirs, recipe["max_steps"])):
                turn = total * (i + 1) // turns - total * i // turns
                spent[side.name] += side.train(turn)
    rows: list[dict[str, Any]] = []
    for side in (theirs, ours):
        rows.append(
            {
                "name": side.name, "how": side.description, "steps": len(side.losses),
                "seconds": spent[side.name], "val_loss": side.evaluate(None),
                "peak_memory": side.peak_memory,
            }
        )  # fmt: skip
        side.close()
    report.print_table(
        f"the same time on {options.data}: {report.headline(torch.device('cpu'))}",
        ("", "steps", "seconds", "val loss", "peak MB"),
        [
            (
                row["name"],
                f"{row['steps']:,}",
                f"{row['seconds']:.0f}",
                f"{row['val_loss']:.4f}",
                f"{row['peak_memory'] / 1e6:,.0f}",
            )
            for row in rows
        ],
    )
    return {"recipe": recipe, "preset": preset, "results": rows}


def _seconds_ratio(our_task: dict[str, Any], their_task: dict[str, Any]) -> float:
    """Return pygpt's seconds a step over nanoGPT's, plus 5 % in nanoGPT's favour.

    The number of steps that fit into the time must be known first: nanoGPT's schedule needs it.
    """
    sides = [Side("pygpt, trial", our_task), Side("nanoGPT, trial", their_task)]
    for side in sides:
        side.train(10)
    times = [[side.train(50) for side in sides] for _ in range(6)]
    for side in sides:
        side.close()
    return 1.05 * statistics.median(ours / theirs for ours, theirs in times)


if __name__ == "__main__":
    cli.run(main)
