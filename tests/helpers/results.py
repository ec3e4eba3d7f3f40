"""What commands leave on the disk, compared with what an undisturbed command leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

COMPARED = ("step", "train_loss", "val_loss", "tokens", "lr", "grad_norm")
"""Fields of metrics.jsonl that are functions of the run."""


def difference(command: str, ours: Path, reference: Path) -> str | None:
    """What differs in the results of a command; None where they are equal to the last bit."""
    if command == "train":
        return _difference_of_runs(ours, reference)
    if names_of(ours) != names_of(reference):
        return f"files {names_of(ours)}, not {names_of(reference)}"
    for path in sorted(reference.iterdir()):
        # A model card says where it is. A report has a clock in it: it is there.
        content = (ours / path.name).read_bytes().replace(bytes(ours), bytes(reference))
        if command != "report" and content != path.read_bytes():
            return f"{path.name} differs"
    return None


def _difference_of_runs(ours: Path, reference: Path) -> str | None:
    figures, expected = (_read_metrics(path / "metrics.jsonl") for path in (ours, reference))
    if figures != expected:
        pairs = zip(figures, expected, strict=False)
        first = next((f"{a}, not {b}" for a, b in pairs if a != b), "")
        return f"{len(figures)} steps, not {len(expected)}; {first}"
    kept, expected_names = (names_of(path / "checkpoints") for path in (ours, reference))
    if not {*expected_names} <= {*kept}:  # a run killed before the last pruning keeps more
        return f"checkpoints {kept}, not {expected_names}"
    for path in sorted((reference / "checkpoints" / kept[-1]).rglob("*")):
        other = ours / path.relative_to(reference)
        if path.is_file() and path.read_bytes() != other.read_bytes():
            return f"{path.name} of {kept[-1]} differs"
    return None


def _read_metrics(path: Path) -> list[tuple[object, ...]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [tuple(line.get(name) for name in COMPARED) for line in lines]


def broken_promise(run: Path, output: str) -> str | None:
    """What a run's output says is saved and isn't there, nor anything newer; None where all is."""
    steps = [int(path.name.rpartition("-")[2]) for path in run.glob("checkpoints/step-*")]
    newest = max(steps, default=0)
    said = [int(step) for step in re.findall(r"^saved .*/step-(\d+)", output, re.M)]
    if newest < max(said, default=0):
        return f"step {max(said)} was said to be saved, and {newest} is the newest"
    stopped = re.findall(r"^stopped at step (\d+)", output, re.M)
    if stopped and newest != int(stopped[-1]):
        return f"stopped at step {stopped[-1]}, and {newest} is the newest that is saved"
    return None


def partial_of(folder: Path) -> set[Path]:
    """Files and directories that are being written under another name, or were left so."""
    return {
        path
        for path in folder.rglob("*")
        if path.name.startswith(".partial-") or path.name.endswith(".partial")
    }


def names_of(folder: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(path.name for path in folder.iterdir())
