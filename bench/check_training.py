"""Whether a run that was stopped and resumed computes the bits of one that was not.

    python bench/check_training.py --preset stdlib-gpu
    python bench/check_training.py --steps 12 --device cpu --preset stdlib-cpu

Trains a few steps several times, as `python -m pygpt.train` does: without a stop; stopped by
SIGTERM and resumed; both under torch.compile too, unless --no-compile; with every operator in plain
PyTorch; and with the optimiser on the host. A run that was resumed must have the losses of the one
that was not stopped, bit for bit: the exit status is 1 if it has not. The losses of the others are
shown beside them. What was measured is written after every run.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import tyro
from lib import report

from pygpt.planning.hardware import pick_device


@dataclasses.dataclass(frozen=True)
class Options:
    """Whether a stopped and resumed run computes the bits of one that was not stopped."""

    preset: str = "stdlib-gpu"
    """Whose model, data and schedule."""
    steps: int = 60
    device: str = "auto"
    dtype: str = "auto"
    optimizer: str = "adamw"
    """Of all runs; Muon can't be offloaded."""
    compile: bool = True
    """Check compiled runs too."""
    offload: bool = True
    """Train with the optimiser on the host too."""
    json: Path | None = None
    """Where to write the results."""


def losses(run: Path) -> list[str]:
    """The training loss of every step, every digit of it."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [repr(json.loads(line)["train_loss"]) for line in lines]


def train(options: Options, out: Path, *flags: str, stop: bool = False) -> list[str]:
    """Train to the last step; with `stop`, in two starts. Returns the losses.

    Raises:
        RuntimeError: a start failed.
    """
    command = [sys.executable, "-m", "pygpt.train", "--out", str(out)]
    new = ["--preset", options.preset, "--max-steps", str(options.steps), "--eval-interval"]
    new += [str(options.steps), "--device", options.device, "--dtype", options.dtype]
    new += ["--optimizer", options.optimizer, *flags]
    if not stop:
        _start(command + new)
        return losses(out)
    process = subprocess.Popen(command + new, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and _steps_of(out) < options.steps // 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    stopped = _steps_of(out)
    if not 0 < stopped < options.steps:
        raise RuntimeError(f"the run was to be stopped in the middle and has {stopped} steps")
    _start([*command, "--resume"])
    return losses(out)


def _start(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:])


def _steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def main(options: Options) -> int:
    """Train, compare, print; the exit status."""
    device = pick_device(options.device)
    curves: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    compiles = ("False", "True") if options.compile else ("False",)
    jobs: list[tuple[str, tuple[str, ...], bool]] = []
    for compiled in compiles:
        words = ", compiled" if compiled == "True" else ""
        jobs.append((f"pygpt{words}", ("--compile", compiled), False))
        jobs.append((f"stopped and resumed{words}", ("--compile", compiled), True))
    jobs.append(("eager", ("--compile", "False", "--impl", "eager"), False))
    if options.offload:
        jobs.append(("offloaded", ("--compile", "False", "--offload-optimizer"), False))

    def write() -> None:
        if options.json:
            fields = {"options": dataclasses.asdict(options), "losses": curves}
            report.write_json(options.json, device, {**fields, "failures": failures})

    with (
        tempfile.TemporaryDirectory() as folder,
        report.reporting(lambda: _print(curves), failures),
    ):
        for i, (name, flags, stop) in enumerate(jobs):
            try:
                curves[name] = train(options, Path(folder) / str(i), *flags, stop=stop)
            except RuntimeError as error:
                failures[name] = str(error)
                print(f"failed: {name}: {error}", file=sys.stderr)
            write()
        for name in [name for name in curves if name.startswith("stopped")]:
            reference = "pygpt" + name.removeprefix("stopped and resumed")
            if curves[name] != curves.get(reference):
                failures[name] = "other bits than without a stop"
                print(f"failed: {name}: {failures[name]}", file=sys.stderr)
        write()
    return int(bool(failures))


def _print(curves: dict[str, list[str]]) -> None:
    if "pygpt" not in curves:
        return
    reference = [float(loss) for loss in curves["pygpt"]]
    rows = []
    for name, curve in curves.items():
        values = [float(loss) for loss in curve]
        pairs = list(zip(values, reference, strict=False))
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        largest = max(abs(a - b) for a, b in pairs)
        rows.append([name, str(len(values)), f"{values[-1]:.4f}", str(same), f"{largest:.1e}"])
    about = report.headline(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    columns = ["", "steps", "last loss", "equal bits up to", "largest difference"]
    report.print_table(f"training loss beside pygpt's; {about}", columns, rows)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
