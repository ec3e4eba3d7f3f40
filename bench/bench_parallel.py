"""What several ranks exchange and how a run scales: a model up to 1,024 GPUs, and two ranks here.

    python bench/bench_parallel.py
    python bench/bench_parallel.py --json bench/results/parallel.json

The first table is arithmetic: `pygpt.planning.roofline` for what a GPU computes, at its bound,
which no run reaches, and `pygpt.planning.communication` for what GPUs exchange, over the bandwidths
that are printed. GPUs that compute slower than the bound wait less: efficiency is underestimated.
Beside it stands what each GPU sends in a step.

The second is measured on this machine: `pygpt.train` on one process and on two gloo ranks, with one
thread each. Bytes are those of the loopback interface, of both ranks, the difference of a long and
a short run. What two ranks could reach is what two runs that know nothing of each other do at once:
virtual cores may share the units of one core.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import tyro
from lib import report

from pygpt.config import GPTConfig, from_preset
from pygpt.data import writer
from pygpt.data.corpora.text import TextFiles
from pygpt.ops.dispatch import Implementations
from pygpt.planning.cards import Card, named_card
from pygpt.planning.communication import How, Network, bytes_per_step, step_seconds
from pygpt.planning.memory import CONTEXT_BYTES, Plan
from pygpt.planning.roofline import step_bound
from pygpt.utils.errors import InputError

VOCAB_SIZE = GPTConfig.vocab_size
RANKS = (1, 2, 8, 64, 256, 1024)
MODELS = ("gpt2", "gpt2-xl")
BATCHES = (524_288, 4_194_304)
HOW: tuple[How, ...] = ("ddp", "fsdp")

ALONE, AT_ONCE = "one process", "two runs at once"
SHORT, LONG = 8, 24
"""Steps of the two runs whose difference is counted."""
SMALL = {
    "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 128, "batch_tokens": 4096,
    "micro_batch": 8, "warmup_steps": 2, "eval_tokens": 2048,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """What several ranks exchange and how a run scales."""

    card: str = "H100"
    """A GPU whose data sheet pygpt has."""
    within: float = 450e9
    """Bytes per second between the GPUs of a machine, each way: NVLink 4 of an H100."""
    between: float = 50e9
    """Bytes per second and GPU between machines: a 400 Gb/s adapter for each."""
    rounds: int = 3
    """How often the runs on this machine are repeated; 0 leaves them out."""
    json: Path | None = None
    """Write the figures here."""


def main() -> None:
    """Print both tables."""
    options = tyro.cli(Options)
    card = named_card(options.card)
    network = Network(options.within, options.between)
    modelled = [
        row
        for name, batch, how in itertools.product(MODELS, BATCHES, HOW)
        if (row := _modelled(name, batch, how, card, network))
    ]
    print(
        f"{card}, at the roofline's bound; {network.within / 1e9:.0f} GB/s within a machine of "
        f"{network.gpus_per_machine}, {network.between / 1e9:.0f} GB/s and GPU between machines, "
        f"{network.latency * 1e6:.0f} µs a hop. Arithmetic and no measurement."
    )
    report.print_table(
        "efficiency by the number of GPUs, at a fixed batch",
        list(modelled[0]),
        [list(row.values()) for row in modelled],
    )
    measured = _measure(options.rounds) if options.rounds else []
    if measured:
        report.print_table(
            f"two cores of this machine, {_n_params(SMALL) / 1e6:.1f} M parameters, "
            f"median of {options.rounds} rounds",
            list(measured[0]),
            [[str(value) for value in row.values()] for row in measured],
        )
    if options.json:
        content = {"card": str(card), "network": dataclasses.asdict(network)}
        content |= {"modelled": modelled, "measured": measured}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


# --- the model -----------------------------------------------------------------------------------


def _modelled(
    name: str, batch: int, how: How, card: Card, network: Network
) -> dict[str, str] | None:
    """One row; None where the model does not fit on a GPU."""
    config = dataclasses.replace(from_preset(name), batch_tokens=batch, compile=True)
    model = config.model(VOCAB_SIZE)
    impl = str(Implementations().resolve(torch.device("cuda"), model))
    row = {"model": name, "batch, tokens": f"{batch:,}", "by": how}
    alone: float | None = None
    for ranks in RANKS:
        cell = "–"
        if config.batch_sequences() % ranks == 0:
            plan = Plan.of(
                config, VOCAB_SIZE, "cuda", torch.bfloat16, impl, ranks=ranks, sharded=how == "fsdp"
            )
            try:
                micro_batch = plan.largest_micro_batch(card.memory - CONTEXT_BYTES)
            except InputError:
                return None
            accumulation = plan.sequences // micro_batch
            bound = step_bound(model, card, micro_batch=micro_batch, batch_tokens=batch // ranks)
            compute = sum(bound.values()) * batch / ranks
            seconds = step_seconds(model, how, ranks, accumulation, compute, network)
            alone = alone or seconds
            sent = bytes_per_step(model, how, ranks, accumulation)
            cell = f"{alone / ranks / seconds:.0%}, {sent / 1e9:.1f} GB"
        row[f"{ranks:,}"] = cell
    return row


# --- here ----------------------------------------------------------------------------------------


def _measure(rounds: int) -> list[dict[str, Any]]:
    """Tokens per second and bytes a step of one process and of two ranks."""
    rates: dict[str, list[float]] = {}
    sent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        sources = sorted(Path(report.__file__).parents[2].glob("pygpt/**/*.py"))
        writer.prepare(TextFiles(tuple(sources)), data, "bytes")
        for number in range(rounds):
            for name in (ALONE, AT_ONCE, "two ranks, ddp", "two ranks, fsdp"):
                out = Path(folder) / f"{name}-{number}"
                before = _loopback()
                _run(name, data, out / "short", SHORT)
                between = _loopback()
                rate = _run(name, data, out / "long", LONG)
                extra = _loopback() - between - (between - before)
                rates.setdefault(name, []).append(rate)
                sent.setdefault(name, []).append(extra / (LONG - SHORT))
    at_once = statistics.median(rates[AT_ONCE])
    model = GPTConfig(
        vocab_size=320, **{k: SMALL[k] for k in ("n_layer", "n_head", "n_embd", "block_size")}
    )
    rows = []
    for name, values in rates.items():
        how: How = "fsdp" if "fsdp" in name else "ddp"
        ranks = 2 if "ranks" in name else 1
        accumulation = SMALL["batch_tokens"] // SMALL["block_size"] // SMALL["micro_batch"] // ranks
        expected = ranks * bytes_per_step(model, how, ranks, accumulation)
        rate = statistics.median(values)
        rows.append(
            {
                "here": name,
                "tokens/s": round(rate),
                "of two at once": f"{rate / at_once:.0%}",
                "MB a step": round(statistics.median(sent[name]) / 1e6, 1),
                "MB a step, modelled": round(expected / 1e6, 1),
            }
        )
    return rows


def _run(name: str, data: Path, out: Path, steps: int) -> float:
    """Train; the median of tokens per second without the first steps, over all processes."""
    settings = SMALL | {"max_steps": steps, "lr_decay_steps": steps, "eval_interval": steps}
    settings |= {"checkpoint_interval": steps, "dropout": 0.0, "device": "cpu", "dtype": "float32"}
    settings |= {"compile": False, "track": "", "preset": "shakespeare-char", "data": data}
    flags = [f"--{field.replace('_', '-')}={value}" for field, value in settings.items()]
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "-m"] if "ranks" in name else []
    if launcher:
        flags += ["--parallel", name.rpartition(" ")[2]]
    outs = [out / str(number) for number in range(2 if name == AT_ONCE else 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *launcher, "pygpt.train", *flags, "--out", str(each)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for each in outs
    ]
    if sum(process.wait() for process in processes):
        raise SystemExit(f"{name} failed")
    return sum(_median_rate(each / "metrics.jsonl") for each in outs)


def _median_rate(metrics: Path) -> float:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return statistics.median(line["tokens_per_second"] for line in lines[3:])


def _n_params(shape: dict[str, int]) -> int:
    names = ("n_layer", "n_head", "n_embd", "block_size")
    return GPTConfig(vocab_size=320, **{name: shape[name] for name in names}).n_params()


def _loopback() -> int:
    """Bytes that the loopback interface has sent; 0 where the system does not say."""
    counter = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else 0


if __name__ == "__main__":
    main()
