"""Train short runs of varied settings and count what the report calls a problem: a false alarm.

    python tests/campaigns/healthy_runs.py --runs 20

Every run is a sound one: a rate near the best for its width, a decaying schedule, a corpus that it
does not repeat more than four times. A campaign is drawn again with --seed. Exits with 1 where a
run had an alarm.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """Train short runs of varied settings and count what the report calls a problem."""

    runs: int = 20
    """How many."""
    seed: int | None = None
    """Draws the same settings again. Default: a fresh one, printed."""
    keep: Path | None = None
    """Directory for the runs. Default: a temporary one."""


TOKENIZERS = ("bytes", "chars")


def settings(draw: random.Random) -> list[str]:
    """Flags of a sound run of 60 to 400 steps of a model of 8 k to 400 k parameters."""
    head, n_head = draw.choice((8, 16, 32)), draw.choice((1, 2, 4))
    width, block = head * n_head, draw.choice((32, 64, 128))
    batch = block * draw.choice((4, 8, 16, 32))
    steps = min(draw.randint(60, 400), 4_000_000 // batch)
    rate = draw.uniform(0.5, 1.5) * 4e-3 * (64 / max(width, 32)) ** 0.5
    values = {
        "n-layer": draw.randint(1, 3), "n-head": n_head, "n-embd": width, "block-size": block,
        "batch-tokens": batch, "max-steps": steps, "warmup-steps": draw.randint(5, steps // 5),
        "learning-rate": f"{rate:.2e}", "min-lr": f"{rate * draw.choice((0.0, 0.05, 0.1)):.2e}",
        "eval-interval": draw.choice((steps // 10, steps // 5, 25)),
        "eval-tokens": draw.choice((4096, 16384)), "dropout": draw.choice((0.0, 0.0, 0.1)),
        "weight-decay": draw.choice((0.0, 0.1)), "grad-clip": draw.choice((0.5, 1.0)),
        "seed": draw.randrange(1000), "dtype": draw.choice(("float32", "float32", "bfloat16")),
    }  # fmt: skip
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def prepare(folder: Path) -> dict[str, Path]:
    """A few megabytes of this Python's standard library, once for each tokenizer."""
    files = [str(path) for path in sorted(Path(os.__file__).parent.glob("*.py"))]
    found = {}
    for name in TOKENIZERS:
        found[name] = folder / name
        run("prepare", "text", *files, "--tokenizer", name, "--out", str(found[name]))
    return found


def run(command: str, *flags: str) -> str:
    """A command of pygpt; what it prints on stdout."""
    words = [sys.executable, "-m", f"pygpt.{command}", *flags]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    return done.stdout


def main(options: Options) -> None:
    """Train, report, count."""
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    draw, alarms = random.Random(seed), 0
    print(f"--seed {seed}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        corpora = prepare(folder)
        for number in range(options.runs):
            flags = settings(draw)
            out, corpus = folder / f"run-{number}", corpora[draw.choice(TOKENIZERS)]
            fixed = ("--preset", "shakespeare-char", "--device", "cpu", "--compile", "False")
            run("train", *fixed, *flags, "--data", str(corpus), "--out", str(out))
            report = json.loads(run("report", str(out), "--json"))
            problems = [each for each in report["findings"] if each["verdict"] == "problem"]
            alarms += bool(problems)
            named = "; ".join(f"{each['id']}: {each['text']}" for each in problems) or "healthy"
            print(f"{number:3d} {named}", flush=True)
            if problems:
                print("    ", *flags, "--data", str(corpus), flush=True)
    print(f"{options.runs} runs, {alarms} with an alarm")
    sys.exit(1 if alarms else 0)


if __name__ == "__main__":
    main(tyro.cli(Options))
