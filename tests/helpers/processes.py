"""Commands as processes that a campaign kills: forked from one that has imported torch, or new."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.helpers import phases

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass
class Started:
    """Processes of one command: one, or a rank each."""

    pids: list[int]
    pipe: int
    """Where the phases are read; closed by all processes when they have ended."""
    log: Path
    status: dict[int, int] = dataclasses.field(default_factory=dict)
    """Exit status of those that have ended; minus the signal's number where that ended one."""
    open_phases: list[str] = dataclasses.field(default_factory=list)
    seen: dict[str, int] = dataclasses.field(default_factory=dict)
    """How often each phase was entered."""
    durations: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Seconds of each phase's calls that have ended."""
    _text: str = ""
    _entered: dict[str, float] = dataclasses.field(default_factory=dict)

    def wait_for(self, phase: str, times: int, seconds: float) -> bool:
        """Wait until a phase is entered for the `times`-th time; False where it is not."""
        deadline = time.monotonic() + seconds
        while self.seen.get(phase, 0) < times:
            if not self.read(max(0.0, deadline - time.monotonic())):
                return False
        return True

    def sleep(self, seconds: float) -> None:
        """Wait, or until all processes have ended."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self.read(left):
            pass

    def read(self, seconds: float) -> bool:
        """Read what the processes say of their phases; False at its end, or after `seconds`."""
        if not select.select([self.pipe], [], [], seconds)[0]:
            return False
        data = os.read(self.pipe, 4096)
        *lines, self._text = (self._text + data.decode()).split("\n")
        for line in lines:
            self._note(line[1:], entered=line[0] == "+")
        return bool(data)

    def _note(self, phase: str, entered: bool) -> None:
        now = time.monotonic()
        if entered:
            self.open_phases.append(phase)
            self.seen[phase] = self.seen.get(phase, 0) + 1
            self._entered[phase] = now
        else:
            self.open_phases.remove(phase)
            self.durations.setdefault(phase, []).append(now - self._entered[phase])

    def drain(self) -> None:
        """Read what is there."""
        while self.read(0):
            pass

    def send(self, number: int, pids: Sequence[int] | None = None) -> None:
        """A signal to all processes, or to some."""
        for pid in self.pids if pids is None else pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until all processes have ended; False where one has not."""
        deadline = time.monotonic() + seconds
        while len(self.status) < len(self.pids):
            for pid in self.pids:
                if pid not in self.status:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        self.status[pid] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                return False
            self.read(0.002)
            time.sleep(0.001)
        return True

    def output(self) -> str:
        """All that the processes wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Kill what is left."""
        self.send(signal.SIGKILL, [pid for pid in self.pids if pid not in self.status])
        self.wait(10)
        os.close(self.pipe)


def import_all() -> None:
    """Import what takes long, once for all forks."""
    for name in (
        "pygpt.data.writer", "pygpt.export", "pygpt.hub.huggingface", "pygpt.report",
        "pygpt.runs.environment", "pygpt.training.session", "torch._dynamo",
        "torch.utils.tensorboard",
    ):  # fmt: skip
        with contextlib.suppress(ImportError):  # of TensorBoard
            importlib.import_module(name)


def start(
    command: str,
    words: Sequence[str],
    log: Path,
    *,
    ranks: int = 1,
    variables: Mapping[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
) -> Started:
    """Start a command of pygpt by a fork; each rank is the leader of a session of its own.

    The caller has no threads. Ranks are started without torchrun, as by SLURM's srun.

    Args:
        command: the name behind ``python -m pygpt.``.
        words: its command line.
        log: file for stdout and stderr.
        ranks: processes.
        variables: environment variables of one process.
        before: called in the process first.
    """
    assert len(os.listdir("/proc/self/task")) == 1
    environment: list[Mapping[str, str]] = [variables or {}]
    if ranks > 1:
        port = str(free_port())
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
        environment = [
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
            for rank in range(ranks)
        ]
    log.unlink(missing_ok=True)
    reading, writing = os.pipe()
    pids = []
    for each in environment:
        pid = _fork()
        if not pid:
            os.close(reading)
            _be_command(command, words, log, each, writing, before)
        pids.append(pid)
    os.close(writing)
    return Started(pids, reading, log)


def execute(words: Sequence[str], log: Path) -> Started:
    """Start a program of its own: nothing is imported yet, and no phase is recorded."""
    log.unlink(missing_ok=True)
    reading, writing = os.pipe()
    pid = _fork()
    if not pid:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _redirect(log)
        os.set_inheritable(writing, True)  # its end says that the process has ended
        os.execv(words[0], list(words))
    os.close(writing)
    return Started([pid], reading, log)


def _fork() -> int:
    """Fork; in the new process signals do what they do where Python starts, and not before that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if not pid:
        os.setsid()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid


def _redirect(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _be_command(
    command: str,
    words: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    pipe: int,
    before: Callable[[], None],
) -> None:
    """What ``python -m pygpt.COMMAND`` does, in a forked process; does not return."""
    status = 1
    try:
        _redirect(log)
        os.environ.update(variables)
        sys.argv = [command, *words]
        before()
        phases.record(pipe)
        module = importlib.import_module(f"pygpt.{command}")
        from pygpt.utils import cli

        try:
            cli.run(module.main)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at an exit
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    found = children(pid)
    return found + [each for child in found for each in descendants(child)]


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def of_sessions(sessions: Sequence[int]) -> Iterator[int]:
    """Living processes of sessions."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions and fields[0] != "Z":
                yield int(entry.name)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file or directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
