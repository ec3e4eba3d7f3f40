"""A worker process of a comparison with nanoGPT, as the benchmark sees it; see `lib.worker`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pygpt.utils import cli

BENCH = Path(__file__).parents[1]


class Side:
    """A worker process and its measurements."""

    def __init__(self, name: str, task: dict[str, Any]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.peak_memory = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lib.worker", json.dumps(task)],
            env={**_environment(task["side"]), "PYTHONPATH": str(BENCH)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.description: str = self._answer()["ready"]

    def train(self, steps: int) -> float:
        """Train one turn and return its seconds."""
        answer = self._ask({"steps": steps})
        self.losses += answer["losses"]
        self.seconds.append(answer["seconds"] / steps)
        self.peak_memory = answer["peak_memory"]
        return float(answer["seconds"])

    def rate(self, seconds: float) -> float:
        """Train for about so long and return the steps per second."""
        answer = self._ask({"seconds": seconds})
        return len(answer["losses"]) / float(answer["seconds"])

    def evaluate(self, tokens: int | None) -> float:
        """Validation loss, nats per token."""
        return float(self._ask({"evaluate": tokens})["val_loss"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended; see its output above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment(side: str) -> dict[str, str]:
    """Only pygpt's own commands change how OpenMP waits."""
    ours = {"GOMP_SPINCOUNT": str(cli.SPINS)} if side == "nanogpt" else {}
    return {name: text for name, text in os.environ.items() if ours.get(name) != text}
