"""The README's first command, in a short form, on other machines than the one it was written on.

None of them has a terminal or input, unless it says so. What can't be made here (a cgroup without
systemd) is skipped, and says what it waits for. Kills and full disks in each phase are in
tests/campaigns, a slow disk is in tests/training/test_saver.py.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pygpt.runs.run import runs_below
from pygpt.utils.machine import cpus_of_this_process, n_cpus

SHORT = """
    --n-layer 1 --n-head 2 --n-embd 64 --batch-tokens 512 --max-steps 3 --warmup-steps 1
    --eval-tokens 1024 --log-interval 1
""".split()
GIB = 2**20  # of ulimit's KiB


@dataclasses.dataclass(frozen=True)
class Machine:
    """How the command is started."""

    prefix: tuple[str, ...] = ()
    """Words before it; the first is a program that has to be here."""
    variables: dict[str, str | None] = dataclasses.field(default_factory=dict)
    """Environment variables; None is unset."""
    flags: tuple[str, ...] = ()
    directory: str = "here"
    """To start in."""
    says: str = ""
    """Part of the output."""


AVX2 = {"PYGPT_CPU_LEVEL": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
NO_CACHES = dict.fromkeys(
    ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME")
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
UNICODE = "Übung mit Leerzeichen, 模型"
MACHINES = {
    "AVX2 without bf16": Machine(variables=AVX2, says="float32"),
    "one core": Machine(("taskset", "-c", str(cpus_of_this_process()[0]))),
    "2 GiB by ulimit -v": Machine(("sh", "-c", f'ulimit -v {2 * GIB}; exec "$@"', "sh")),
    "2 GiB by a cgroup": Machine(
        ("systemd-run", "--quiet", "--scope", "-p", "MemoryMax=2G", "-p", "MemorySwapMax=0")
    ),
    "half of a core by a cgroup": Machine(
        ("systemd-run", "--quiet", "--scope", "-p", "CPUQuota=50%")
    ),
    "spaces and other letters in ASCII": Machine(directory=UNICODE, variables=ASCII),
    "a home that can't be written, LANG=C": Machine(
        variables={"HOME": "/proc/none", "LANG": "C", "LC_ALL": None, **NO_CACHES}
    ),
    "no home, no terminal": Machine(
        ("setsid", "--wait"), {"HOME": None, "TERM": None, **NO_CACHES}
    ),
    "without what only Linux has": Machine(
        variables={"PYTHONPATH": str(Path(__file__).parent / "without_linux")}
    ),
    "a dumb terminal": Machine(("script", "-qefc"), {"TERM": "dumb"}),
}


def start(machine: Machine, tmp_path: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pygpt.train", *SHORT, *machine.flags, *flags]
    environment = dict(os.environ)
    for name, value in machine.variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    if machine.prefix[:1] == ("script",):  # takes one text for a shell
        command = [*machine.prefix, subprocess.list2cmdline(command), "/dev/null"]
    else:
        command = [*machine.prefix, *command]
    directory = tmp_path / machine.directory
    directory.mkdir(exist_ok=True)
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def needs(*words: str) -> None:
    """Skip where a program is missing, or can't do here what it is for."""
    if not words or words[0] == "sh":
        return
    works = shutil.which(words[0]) and (
        words[0] == "script"
        or subprocess.run([*words, "true"], check=False, capture_output=True).returncode == 0
    )
    if not works:
        pytest.skip(f"waits for a machine where `{' '.join(words)} true` works")


@pytest.mark.parametrize("name", MACHINES)
def test_training_ends_with_a_checkpoint(name: str, tmp_path: Path, data: Path) -> None:
    machine = MACHINES[name]
    needs(*machine.prefix)
    done = start(machine, tmp_path, "--data", str(data))
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    assert machine.says in done.stdout
    (run,) = runs_below(tmp_path / machine.directory / "runs")
    assert run.newest_checkpoint()


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """A process that computes on each CPU."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_cpus())
    ]
    yield
    for process in spinning:
        process.kill()
        process.wait()


def test_beside_busy_processes(busy_cores: None, tmp_path: Path, data: Path) -> None:
    """It ends and is right; how fast is measured by bench/bench_busy.py."""
    done = start(Machine(), tmp_path, "--data", str(data))
    assert done.returncode == 0, done.stdout


def test_a_model_that_does_not_fit_is_refused_with_the_limit(tmp_path: Path, data: Path) -> None:
    machine = MACHINES["2 GiB by ulimit -v"]
    done = start(machine, tmp_path, "--data", str(data), "--n-layer", "24", "--n-embd", "1024")
    assert done.returncode == 2, done.stdout
    *_, error = done.stdout.splitlines()
    assert error.startswith("error: one sequence of 64 tokens needs ")
    assert "GiB are free under the ulimit -v of 2.00 GiB" in error
    assert not runs_below(tmp_path / "here" / "runs")


def test_a_full_disk_is_one_line(tmp_path: Path, data: Path) -> None:
    """The disk has room for the run's description, but not for its checkpoint."""
    full = tmp_path / "here"
    full.mkdir()
    mount = f'mount -t tmpfs -o size=64k none "{full}" && cd "{full}"'
    needs("unshare", "-rm", "sh", "-c", mount)
    machine = Machine(("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"))
    done = start(machine, tmp_path, "--data", str(data))
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    *_, error = done.stdout.splitlines()
    assert error.startswith("error: ")
    assert "No space left on device" in error


def test_no_compiler_for_inductor(tmp_path: Path, data: Path) -> None:
    """torch.compile that was asked for is refused; "auto" goes on without, see test_train."""
    empty = tmp_path / "programs"
    empty.mkdir()
    machine = Machine(variables={"PATH": str(empty), "CXX": None, "CC": None})
    assert start(machine, tmp_path, "--data", str(data)).returncode == 0
    done = start(machine, tmp_path, "--data", str(data), "--compile", "--out", "compiled")
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("error: ")
