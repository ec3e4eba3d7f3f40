"""What a process may take, read from directories that stand for /proc and /sys."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from pygpt.utils import machine
from pygpt.utils.machine import available_memory, n_cores, n_cpus

GIB = 2**30
V2 = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 24 0:28 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Make a root with 16 GiB free and 8 CPUs, in pairs of hyper-threads, all of them ours."""

    def make(cgroup: str, mounts: str, files: dict[str, str], root: str = "/") -> Path:
        siblings = {
            f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 4},{n % 4 + 4}\n"
            for n in range(8)
        }
        about = {
            "proc/meminfo": f"MemTotal: {GIB >> 4} kB\nMemAvailable: {16 * GIB >> 10} kB\n",
            "proc/self/cgroup": cgroup,
            "proc/self/mountinfo": "24 1 8:1 / / rw - ext4 /dev/a rw\n" + mounts.format(root=root),
        }
        groups = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        for name, text in (about | siblings | groups).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")
        return tmp_path

    monkeypatch.setattr(machine, "cpus_of_this_process", lambda: list(range(8)))
    return make


def v2_group(limit: int, used: int, cache: int = 0, high: str = "max") -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.high": f"{high}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon {used - cache}\ninactive_file {cache}\nactive_file 0\n",
    }


def in_group(name: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{name}/{file}": text for file, text in files.items()}


def test_without_limits_it_is_what_the_machine_has_free(build: Build) -> None:
    files = in_group("user.slice", {"memory.max": "max\n", "cpu.max": "max 100000\n"})
    root = build("0::/user.slice\n", V2, files)
    assert available_memory(root) == machine.Memory(16 * GIB)
    assert (n_cpus(root), n_cores(root)) == (8, 4)


def test_the_smallest_limit_on_the_path_holds_and_cache_makes_way(build: Build) -> None:
    files = in_group("a/b", v2_group(4 * GIB, used=1 * GIB))
    files |= in_group("a", v2_group(2 * GIB, used=3 * GIB // 2, cache=GIB))
    found = available_memory(build("0::/a/b\n", V2, files))
    assert found.free == 2 * GIB - GIB // 2
    assert found.limit == "memory limit of 2.00 GiB of the cgroup /a"


def test_a_group_is_not_driven_over_memory_high(build: Build) -> None:
    files = in_group("a", v2_group(8 * GIB, used=0, high=str(GIB)))
    assert available_memory(build("0::/a\n", V2, files)).free == GIB


def test_a_group_over_its_limit_leaves_nothing(build: Build) -> None:
    files = in_group("a", v2_group(GIB, used=2 * GIB))
    assert available_memory(build("0::/a\n", V2, files)).free == 0


def test_version_1(build: Build) -> None:
    cgroup = "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/\n0::/\n"
    files = in_group(
        "memory/job",
        {
            "memory.limit_in_bytes": f"{2 * GIB}\n",
            "memory.usage_in_bytes": f"{GIB}\n",
            "memory.stat": f"total_inactive_file {GIB // 4}\ntotal_active_file {GIB // 4}\n",
        },
    )
    files |= {"memory/memory.limit_in_bytes": "9223372036854771712\n"}
    files |= in_group(
        "cpu,cpuacct/job", {"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}
    )
    files |= {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    root = build(cgroup, V1, files)
    assert available_memory(root).free == 2 * GIB - GIB // 2
    assert (n_cpus(root), n_cores(root)) == (3, 3)


@pytest.mark.parametrize(
    ("cgroup", "mounted"),
    [("/docker/1f", "/docker/1f"), ("/", "/"), ("/../../x", "/"), ("/elsewhere", "/docker/1f")],
)
def test_the_group_of_a_container(build: Build, cgroup: str, mounted: str) -> None:
    """Listed by its name outside, inside, or by one that lies outside of the mount."""
    files = v2_group(GIB, used=0) | {"cpu.max": "150000 100000\n"}
    root = build(f"0::{cgroup}\n", V2, files, root=mounted)
    assert available_memory(root).free == GIB
    assert (n_cpus(root), n_cores(root)) == (2, 2)


def test_a_quota_on_the_path_holds_and_at_least_one_cpu_remains(build: Build) -> None:
    files = in_group("a/b", {"cpu.max": "max 100000\n"}) | in_group("a", {"cpu.max": "1000 100000"})
    root = build("0::/a/b\n", V2, files)
    assert (n_cpus(root), n_cores(root)) == (1, 1)


def test_affinity_counts_cores_not_hyper_threads(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = build("0::/\n", V2, {})
    monkeypatch.setattr(machine, "cpus_of_this_process", lambda: [1, 5, 6])
    assert (n_cpus(root), n_cores(root)) == (3, 2)


def test_what_this_kernel_does_not_have_limits_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1024 kB\n", encoding="ascii")
    assert available_memory(tmp_path) == machine.Memory(2**20)
    assert n_cpus(tmp_path) == n_cores(tmp_path) == len(machine.cpus_of_this_process())


def test_other_systems_ask_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = types.SimpleNamespace(virtual_memory=lambda: types.SimpleNamespace(available=GIB))
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert available_memory(tmp_path) == machine.Memory(GIB)


@pytest.mark.parametrize(("limit", "name"), [("v", "RLIMIT_AS"), ("d", "RLIMIT_DATA")])
def test_ulimit(limit: str, name: str) -> None:
    resource = pytest.importorskip("resource", reason="waits for POSIX")
    code = "from pygpt.utils.machine import *; print(repr(available_memory()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(getattr(resource, name), (4 * GIB, 4 * GIB)),
    )
    memory = eval(done.stdout, {"Memory": machine.Memory})
    assert memory.limit == f"ulimit -{limit} of 4.00 GiB"
    threads = 2 * n_cores() + 2 if limit == "v" else 0  # to come, of PyTorch and of pygpt
    assert 3.8 * GIB < memory.free + threads * machine._THREAD_BYTES < 4 * GIB


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="waits for Linux")
def test_one_cpu_by_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from pygpt.utils.machine import *; print(n_cpus(), n_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
