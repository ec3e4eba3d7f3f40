"""Commands on disks that are full, read-only, slow, unmounted, or whose fsync fails.

::

    nice python -m tests.campaigns.disk --trials 10

Each trial: a command writes to a disk that fails at a random point. It must end with one line that
says so, or with a result that is whole; what it said to be saved must be there. Then the disk is as
it should be, and the same command (with --resume where there is a checkpoint) must end with the
result, to the last bit, of one that had no trouble.

- full: a tmpfs of a random size, which is then enlarged
- read-only: a mount that is read-only when the command starts
- unmounted: the mount is detached (umount -l) while the command runs; nothing may appear in the
  directory that was under it
- slow: each write and fsync takes a random time up to 30 ms (`disk_faults.c`, LD_PRELOAD)
- fsync: the n-th fsync fails, and each one after it (likewise)

Needs root, for mounts in a mount namespace of its own, and cc. Exits with 1 where a trial failed.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

from pygpt.data import encoding
from pygpt.utils import cli
from tests.campaigns.kill import HANGS, Campaign
from tests.campaigns.kill import Options as KillOptions
from tests.helpers import processes, results

SHIM = Path(__file__).with_name("disk_faults.c")
CLONE_NEWNS = 0x20000  # of <sched.h>
COMMANDS = {"train": "train", "shards": "prepare", "text": "prepare", "export": "export",
            "report": "report"}  # fmt: skip
FAULTS = ("full", "read-only", "unmounted", "slow", "fsync")
NEEDS = {"train": 3000, "shards": 900, "text": 900, "export": 120, "report": 120}
"""KiB that each command writes, and a little more."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Run commands on disks that fail."""

    trials: int = 1
    """Of each command with each fault."""

    seed: int | None = None
    """Draws the same trials again. None: a fresh one, printed."""

    commands: tuple[str, ...] = tuple(COMMANDS)
    """Which."""

    faults: tuple[str, ...] = FAULTS
    """Which."""


class FailedError(Exception):
    """What went wrong in a trial."""


class Disk:
    """A mount that can fail; the directory that is under it stays reachable as `under`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self._content = folder / "content"
        self.path.mkdir()

    def mount(self, kib: int | None = None, *, read_only: bool = False) -> None:
        """Mount a tmpfs of a size, or a directory of the real disk."""
        if kib is not None:
            _run("mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(self.path))
            return
        self._content.mkdir(exist_ok=True)
        _run("mount", "--bind", str(self._content), str(self.path))
        if read_only:
            _run("mount", "-o", "remount,ro,bind", str(self.path))

    def enlarge(self) -> None:
        """Make room on a tmpfs."""
        _run("mount", "-o", "remount,size=100m", str(self.path))

    def detach(self) -> None:
        """Unmount, though it is in use."""
        _run("umount", "-l", str(self.path))

    def remove(self) -> None:
        """Detach all that is mounted."""
        with contextlib.suppress(subprocess.CalledProcessError):
            while True:
                self.detach()


class Trials:
    """The trials of a campaign.

    Args:
        folder: for everything.
        options: which.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._seed = random.SystemRandom().randrange(10**6)
        if options.seed is not None:
            self._seed = options.seed
        self._draw = random.Random(self._seed)
        self._options = options
        self._said: set[tuple[str, str, str]] = set()
        kinds = tuple(dict.fromkeys(["train", *options.commands]))
        self._references = Campaign(folder, KillOptions(kinds=kinds, seed=self._seed))
        self.results: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def run(self) -> None:
        """All trials."""
        print(f"--seed {self._seed}", flush=True)
        self._references.make_references()
        pairs = itertools.product(self._options.faults, self._options.commands)
        for fault, name in pairs:
            for number in range(self._options.trials):
                folder = self._folder / f"{fault}-{name}-{number}"
                folder.mkdir()
                try:
                    outcome = self._trial(fault, name, folder)
                except FailedError as error:
                    outcome = "LOST"
                    print(f"LOST {folder.name}: {error}", flush=True)
                self.results[fault, name, outcome] += 1
                shutil.rmtree(folder, ignore_errors=True)

    def table(self) -> str:
        """Trials by fault, command and outcome."""
        rows = [f"{'disk':10} {'command':8} {'outcome':34} {'trials':>6}"]
        for (fault, name, outcome), n in sorted(self.results.items()):
            rows.append(f"{fault:10} {name:8} {outcome:34} {n:6}")
        lost = sum(n for key, n in self.results.items() if key[2] == "LOST")
        return "\n".join([*rows, "", f"{self.results.total()} trials, {lost} lost"])

    def _trial(self, fault: str, name: str, folder: Path) -> str:
        disk = Disk(folder)
        disk.mount(self._size(fault, name), read_only=fault == "read-only")
        try:
            process, output = self._first_start(fault, name, folder, disk)
            failed = any(process.status.values())
            if fault == "unmounted":
                _expect(not list(disk.path.iterdir()), "it wrote to the directory under the mount")
                disk.mount()
            elif fault == "full":
                disk.enlarge()
            elif fault == "read-only":
                _expect(failed, "it wrote to a read-only disk")
                disk.detach()
                disk.mount()
            if COMMANDS[name] == "train":
                broken = results.broken_promise(disk.path / "out", output)
                _expect(broken is None, str(broken))
            if failed:
                self._second_start(name, folder, disk)
            reference = self._folder / f"reference-{name}" / "out"
            different = results.difference(COMMANDS[name], disk.path / "out", reference)
            _expect(different is None, f"{different}; {output[-500:]}")
            left = results.partial_of(disk.path)
            _expect(not left, f"partial: {left}")
            return "said, then went on" if failed else "not reached" if fault != "slow" else "whole"
        finally:
            disk.remove()

    def _size(self, fault: str, name: str) -> int | None:
        """KiB of a full disk; None is a mount of the real one."""
        return self._draw.randint(4, NEEDS[name]) if fault == "full" else None

    def _first_start(
        self, fault: str, name: str, folder: Path, disk: Disk
    ) -> tuple[processes.Started, str]:
        """On the failing disk; what it said."""
        variables = {"DISK_FOLDER": str(disk.path)}
        if fault == "slow":
            variables |= {"DISK_FAULT": fault, "DISK_NUMBER": str(self._draw.randint(1000, 30_000))}
        if fault == "fsync":
            most = {"train": 100, "report": 6}.get(name, 12)
            variables |= {"DISK_FAULT": fault, "DISK_NUMBER": str(self._draw.randint(1, most))}
        words = self._references.words(name, disk.path)
        process = processes.start(COMMANDS[name], words, folder / "log", variables=variables)
        if fault == "unmounted":
            while not list(disk.path.iterdir()) and not process.wait(0):
                pass  # before it has begun, another directory can't be told from the disk
            process.sleep(self._draw.uniform(0, self._references.duration(name)))
            disk.detach()
        _expect(process.wait(HANGS), "it hangs")
        process.close()
        output = process.output()
        _expect("Traceback" not in output, f"a traceback: {output[-3000:]}")
        if status := max(process.status.values()):
            errors = [line for line in output.splitlines() if line.startswith("error: ")]
            _expect(len(errors) == 1 and status == 2, f"status {status}: {output[-2000:]}")
            self._say(fault, name, errors[0].replace(str(folder), "…"))
        return process, output

    def _say(self, fault: str, name: str, line: str) -> None:
        """Print a message the first time that it comes, whatever the step."""
        if (kind := (fault, name, re.sub(r"\d+", "", line))) not in self._said:
            self._said.add(kind)
            print(f"{fault}, {name}: {line}", flush=True)

    def _second_start(self, name: str, folder: Path, disk: Disk) -> None:
        from pygpt.runs.run import Run

        words = self._references.words(name, disk.path)
        if COMMANDS[name] == "train" and Run(disk.path / "out").newest_checkpoint():
            words.append("--resume")
        process = processes.start(COMMANDS[name], words, folder / "log")
        _expect(process.wait(HANGS), "the next start hangs")
        process.close()
        _expect(not any(process.status.values()), f"the next start: {process.output()[-2000:]}")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise FailedError(otherwise)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def why_not() -> str | None:
    """Why the campaign can't run here; None where it can."""
    if not shutil.which("cc"):
        return "waits for cc, a C compiler"
    test = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return "waits for root, to mount" if test.returncode else None


def _with_shim() -> None:
    """Start this program again with the shim in it, and in a mount namespace of its own."""
    shim = Path(tempfile.mkdtemp(prefix="pygpt-disk-")) / "disk_faults.so"
    _run("cc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(SHIM), "-ldl")
    words = [sys.executable, "-m", "tests.campaigns.disk", *sys.argv[1:]]
    os.execve(sys.executable, words, {**os.environ, "LD_PRELOAD": str(shim)})


def main() -> None:
    """Run the campaign and print its table."""
    options = cli.parse(Options, prog="python -m tests.campaigns.disk")
    if reason := why_not():
        print(reason)
        return
    if not os.environ.get("LD_PRELOAD", "").endswith("disk_faults.so"):
        _with_shim()
    ctypes.CDLL(None).unshare(CLONE_NEWNS)
    _run("mount", "--make-rprivate", "/")
    processes.import_all()
    encoding.BATCH_BYTES = 2000  # as of a corpus that takes hours
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pygpt-disk-") as folder:
        trials = Trials(Path(folder), options)
        trials.run()
    shutil.rmtree(Path(os.environ["LD_PRELOAD"]).parent)
    print(trials.table())
    print(f"in {time.monotonic() - began:.0f} s")
    sys.exit(1 if any(key[2] == "LOST" for key in trials.results) else 0)


if __name__ == "__main__":
    cli.run(main)
