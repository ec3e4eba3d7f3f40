"""Kills commands at random moments, goes on, and compares with one that was never killed.

::

    nice python -m tests.campaigns.kill --kills 1000

A chain is one directory: a command is started and killed, some times over, and then left to come to
its end. Every kill of a chain has survived if each next start of the same command went on (with
--resume where there was a checkpoint), nothing partial, no lock and no process was left, and the
result equals, to the last bit, the one of a run that was never killed: the figures of
metrics.jsonl and every file of the last checkpoint, the files of a dataset or of an export.

Processes are forked from this one, which has imported torch: a kill costs about a second. Kills in
"import", and those of torchrun, are of new processes. Ctrl-C or SIGTERM ends the campaign with its
table.
Exits with 1 where a kill was not survived; --keep has what is left of it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

from pygpt.data import encoding
from pygpt.utils import cli
from tests.helpers import processes, results
from tests.helpers.processes import Started, execute, start

STEPS = 40
TRAIN = f"""
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --dropout 0.1
    --batch-tokens 64 --micro-batch 2 --max-steps {STEPS} --lr-decay-steps {STEPS}
    --warmup-steps 2 --eval-interval 7 --eval-tokens 256 --checkpoint-interval 3
    --keep-checkpoints 2 --device cpu --dtype float32 --ema-decay 0.9 --log-interval 1
""".split()
SIGNALS = {"KILL": 4, "TERM": 2, "INT": 2, "INT twice": 1, "HUP": 2, "STOP, CONT": 1}
"""Signal → how often it is drawn."""
HANGS = 600.0
"""Seconds after which a process that should end is said to hang."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Kill commands at random moments."""

    kills: int = 20
    """How many."""

    seed: int | None = None
    """Draws the same kills again; when they hit differs a little. None: a fresh one, printed."""

    kinds: tuple[str, ...] = ("train", "ranks", "shards", "text", "export", "report", "torchrun")
    """What is killed: train in one process, on two ranks, prepare with and without shards …"""

    keep: Path | None = None
    """Where directories of kills that were not survived go. None: a temporary directory."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A command that is killed."""

    command: str
    phases: tuple[str, ...]
    weight: int
    """How often it is drawn."""
    ranks: int = 1


KINDS = {
    "train": Kind(
        "train",
        ("import", "opening", "first step", "evaluation", "saving", "pruning", "resuming",
         "ending", "any"),
        10,
    ),
    "ranks": Kind(
        "train", ("opening", "first step", "evaluation", "saving", "resuming", "any"), 4, ranks=2
    ),
    "torchrun": Kind("train", ("any",), 1, ranks=2),
    "shards": Kind("prepare", ("import", "prepare", "prepare"), 3),
    "text": Kind("prepare", ("import", "prepare", "prepare"), 2),
    "export": Kind("export", ("import", "export", "export"), 3),
    "report": Kind("report", ("report",), 1),
}  # fmt: skip


class NotSurvivedError(Exception):
    """What a kill has cost."""


@dataclasses.dataclass
class Kill:
    """One kill."""

    kind: str
    signal: str
    phase: str = ""


class Campaign:
    """The kills, and what they are compared with.

    Args:
        folder: for everything.
        options: what to kill.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._seed = random.SystemRandom().randrange(10**6)
        if options.seed is not None:
            self._seed = options.seed
        self._draw = random.Random(self._seed)
        self._durations: dict[str, dict[str, float]] = {}
        self.tried: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.lost: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def run(self) -> None:
        """Chains until there are enough kills, or Ctrl-C."""
        print(f"--seed {self._seed}", flush=True)
        self.make_references()
        weights = [KINDS[name].weight for name in self._options.kinds]
        for number in itertools.count():
            left = self._options.kills - self.tried.total()
            if left <= 0:
                return
            name = self._draw.choices(self._options.kinds, weights)[0]
            chain = self._folder / f"{number:04d}-{name}"
            kills: list[Kill] = []
            most = 2 if name == "torchrun" else 6  # it takes ten seconds to start
            try:
                self._chain(name, chain, min(left, self._draw.randint(1, most)), kills)
            except NotSurvivedError as loss:
                self.lost.update((kill.kind, kill.phase, kill.signal) for kill in kills[-1:])
                self._keep(chain, loss, kills)
            finally:
                self.tried.update((kill.kind, kill.phase, kill.signal) for kill in kills)
                shutil.rmtree(chain, ignore_errors=True)
            if number % 10 == 9:
                print(f"{self.tried.total()} kills, {self.lost.total()} lost", flush=True)

    def table(self) -> str:
        """Tried, survived and lost, by what was killed, its phase and the signal."""
        rows = [
            f"{'killed':10} {'phase':12} {'signal':12} {'tried':>6} {'survived':>8} {'lost':>5}"
        ]
        sums: collections.Counter[tuple[str, str]] = collections.Counter()
        for key in sorted(self.tried):
            tried, lost = self.tried[key], self.lost[key]
            kind, phase, name = key
            rows.append(f"{kind:10} {phase:12} {name:12} {tried:6} {tried - lost:8} {lost:5}")
            sums[(kind, phase)] += tried
        rows += ["", f"{'killed':10} {'phase':12} {'tried':>6}"]
        rows += [f"{kind:10} {phase:12} {n:6}" for (kind, phase), n in sorted(sums.items())]
        total, lost = self.tried.total(), self.lost.total()
        return "\n".join([*rows, "", f"{total} kills: {total - lost} survived, {lost} lost"])

    # --- references -------------------------------------------------------------------------------

    def make_references(self) -> None:
        """What each command makes if it is never killed, and how long its phases take."""
        self._text = self._folder / "text.txt"
        sources = sorted(Path(cli.__file__).parents[1].glob("*/*.py"))
        texts = [path.read_text(encoding="utf-8") for path in sources[:60]]
        self._text.write_text("\n".join(texts), encoding="utf-8")
        self._records = self._folder / "records.jsonl"
        lines = [json.dumps({"text": line * 3}) for text in texts for line in text.split("\n\n")]
        self._records.write_text("\n".join(lines), encoding="utf-8")
        for name in dict.fromkeys(["text", "train", *self._options.kinds]):
            if name == "torchrun" and "ranks" in self._options.kinds:
                continue
            out = self._folder / f"reference-{name}"
            out.mkdir()
            kind = KINDS[name]
            process = start(kind.command, self.words(name, out), out / "log", ranks=kind.ranks)
            began = time.monotonic()
            if not process.wait(HANGS) or any(process.status.values()):
                sys.exit(f"{name} failed:\n{process.output()}")
            process.drain()
            self._durations[name] = {
                phase: sum(times) / len(times) for phase, times in process.durations.items()
            }
            self._durations[name]["any"] = time.monotonic() - began
            process.close()
        began = time.monotonic()
        execute([sys.executable, "-c", "import pygpt.training.session"], self._folder / "log").wait(
            HANGS
        )
        self._durations["import"] = {"import": time.monotonic() - began}

    def words(self, name: str, folder: Path) -> list[str]:
        """The command's words for its first start in `folder`."""
        out, trained = str(folder / "out"), self._folder / "reference-train" / "out"
        prepare = ["--tokenizer", "bytes", "--out", out, "--workers", "2"]
        return {
            "shards": ["jsonl", str(self._records), *prepare, "--shard-tokens", "20000"],
            "text": ["text", str(self._text), *prepare],
            "export": [str(trained), "--to", out],
            "report": [str(trained), "--out", out],
        }.get(name) or [*TRAIN, "--data", str(self._folder / "reference-text/out"), "--out", out]

    def duration(self, name: str) -> float:
        """Seconds that a command takes if it is not killed."""
        return self._durations[name]["any"]

    # --- one chain --------------------------------------------------------------------------------

    def _chain(self, name: str, chain: Path, n_kills: int, kills: list[Kill]) -> None:
        """Kill one command `n_kills` times, then let it end, and compare."""
        chain.mkdir()
        partial: set[Path] = set()
        while not self._is_complete(name, chain):
            process = self._start(name, chain, last=len(kills) == n_kills)
            try:
                if len(kills) < n_kills and self._kill(name, chain, process, kills):
                    if "first step" in process.seen:
                        _expect(not partial & results.partial_of(chain), f"{partial} left")
                    partial = results.partial_of(chain)
                    continue
                _expect(process.wait(HANGS), "the next start hangs")
                _expect(not any(process.status.values()), "the next start failed")
            finally:
                process.close()
            break
        self._compare(name, chain)

    def _start(self, name: str, chain: Path, last: bool) -> Started:
        from pygpt.runs.run import Run

        kind, words, log = KINDS[name], self.words(name, chain), chain / "log"
        run = Run(chain / "out")
        if kind.command == "train" and run.started and run.newest_checkpoint():
            words.append("--resume")
        self._target = "" if last else self._draw.choice(kind.phases)
        python = [sys.executable, "-m"]
        if name == "torchrun" and not last:
            port = str(processes.free_port())
            launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
            return execute([*python, *launcher, "-m", "pygpt.train", *words], log)
        if self._target == "import":
            return execute([*python, f"pygpt.{kind.command}", *words], log)
        return start(kind.command, words, log, ranks=kind.ranks)

    def _kill(self, name: str, chain: Path, process: Started, kills: list[Kill]) -> bool:
        """Wait for a random moment and kill; False where the process ended before."""
        durations = self._durations.get(name, {}) | self._durations["import"]
        phase = self._target
        if name == "torchrun":
            process.sleep(self._draw.uniform(0, 8 * durations["import"]))
        elif phase in ("import", "any"):
            process.sleep(self._draw.uniform(0, durations[phase]))
        else:
            often = phase in ("evaluation", "saving", "pruning")
            if not process.wait_for(phase, self._draw.randint(1, 4) if often else 1, HANGS):
                return False
            time.sleep(self._draw.uniform(0, 1.1 * durations.get(phase, 0.01)))
        if process.wait(0):
            return False
        drawn = self._draw.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        kill = Kill(name, drawn)
        kills.append(kill)
        kill.phase = "import" if phase == "import" else phase_of(process)
        victims = process.pids
        if name == "torchrun":
            ranks = processes.children(process.pids[0])
            victims = self._draw.choice([process.pids, ranks[:1] or process.pids])
        elif len(victims) > 1 and self._draw.random() < 0.4:
            victims = [self._draw.choice(victims)]
        started = [*process.pids, *(each for pid in process.pids for each in descendants(pid))]
        if drawn == "STOP, CONT":
            process.send(signal.SIGSTOP, victims)
            if name != "torchrun" and self._draw.random() < 0.3:
                self._refused(name, chain, process)
            time.sleep(self._draw.uniform(0.05, 0.3))
            process.send(signal.SIGCONT, victims)
            return False  # it comes to its end
        number = signal.Signals[f"SIG{drawn.split()[0]}"]
        process.send(number, victims)
        if drawn == "INT twice":
            time.sleep(self._draw.choice([0, 0.001, 0.02]))
            process.send(number, victims)
        _expect(process.wait(HANGS), f"does not end after {drawn}")
        process.drain()
        if drawn == "KILL" and kill.phase != "import":
            kill.phase = phase_of(process)
        self._look_around(name, chain, process, number, started)
        return True

    def _refused(self, name: str, chain: Path, process: Started) -> None:
        """Start the command a second time while the first is stopped, holding its lock."""
        locks = [chain / "out" / "lock", chain / "out.partial"]
        if not any(map(processes.is_locked, locks)):
            return
        second = start(KINDS[name].command, self.words(name, chain), chain / "second")
        _expect(second.wait(HANGS), "a second start beside a stopped one hangs")
        _expect(set(second.status.values()) == {2}, f"a second start: {second.output()}")
        second.close()

    def _look_around(
        self, name: str, chain: Path, process: Started, number: signal.Signals, started: list[int]
    ) -> None:
        """What a process may leave after a signal."""
        output = process.output()
        deadline = time.monotonic() + (40 if name == "torchrun" else 0)
        while left := [*processes.of_sessions(process.pids), *filter(processes.alive, started)]:
            _expect(time.monotonic() < deadline, f"processes {left} are left")
            time.sleep(0.1)
        for lock in (chain / "out" / "lock", chain / "out.partial"):
            _expect(not processes.is_locked(lock), f"{lock} is locked")
        if name != "torchrun":  # whose own traceback says which signal came
            _expect("Traceback" not in output or self._target == "import", "a traceback")
            usual = {0, -number, 128 + number}
            if len(process.pids) > 1:  # the other rank stops too, or says that it lost this one
                usual |= {128 + signal.SIGTERM, 2}
            _expect(set(process.status.values()) <= usual, f"status {process.status}")
        broken = results.broken_promise(chain / "out", output)
        _expect(broken is None, str(broken))

    # --- the end ----------------------------------------------------------------------------------

    def _is_complete(self, name: str, chain: Path) -> bool:
        """Whether a killed process had come to its end."""
        if KINDS[name].command in ("prepare", "export"):
            return (chain / "out").exists()
        return False

    def _compare(self, name: str, chain: Path) -> None:
        """The result, with that of a command that was never killed."""
        alike = "ranks" if name == "torchrun" and "ranks" in self._durations else name
        ours, reference = chain / "out", self._folder / f"reference-{alike}" / "out"
        _expect(not (left := results.partial_of(chain)), f"partial: {left}")
        difference = results.difference(KINDS[name].command, ours, reference)
        _expect(difference is None, str(difference))

    def _keep(self, chain: Path, loss: Exception, kills: list[Kill]) -> None:
        print(f"LOST {chain.name}: {loss}; kills: {kills}", flush=True)
        print((chain / "log").read_text(encoding="utf-8")[-3000:], flush=True)
        if self._options.keep:
            self._options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copytree(chain, self._options.keep / chain.name, dirs_exist_ok=True)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotSurvivedError(otherwise)


def phase_of(process: Started) -> str:
    """The phase a process is in."""
    process.drain()
    if process.open_phases:
        return process.open_phases[-1]
    return "steps" if "first step" in process.seen else "start"


def descendants(pid: int) -> list[int]:
    """Processes below one, that are alive."""
    return [each for each in processes.descendants(pid) if processes.alive(each)]


@contextlib.contextmanager
def folder_for_campaign() -> Iterator[Path]:
    """A temporary directory, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="pygpt-kill-") as name:
        yield Path(name)


def main() -> None:
    """Run the campaign and print its table."""
    options = cli.parse(Options, prog="python -m tests.campaigns.kill")
    processes.import_all()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has a background job ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    encoding.BATCH_BYTES = 2000  # as of a corpus that takes hours
    began = time.monotonic()
    with folder_for_campaign() as folder:
        campaign = Campaign(folder, options)
        try:
            campaign.run()
        except KeyboardInterrupt:
            traceback.print_exc()  # where it was; the table follows
    print(campaign.table())
    print(f"in {time.monotonic() - began:.0f} s")
    sys.exit(1 if campaign.lost else 0)


if __name__ == "__main__":
    cli.run(main)
