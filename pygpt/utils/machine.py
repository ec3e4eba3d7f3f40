"""What this process may take of its machine: CPUs and memory, by affinity, cgroups and ulimit.

Cgroups are read as cgroups(7) and the kernel's cgroup-v1/memory.rst and cgroup-v2.rst describe
them: a limit anywhere on the path from the root to the process's group holds for the process.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pygpt.utils.format import gib

ROOT = Path("/")
"""Where /proc and /sys are found; tests have directories of their own."""

_UNLIMITED = 2**60
"""From here on a number of bytes is no limit; cgroup v1 writes 2**63 rounded down to a page."""

_RLIMITS = {"RLIMIT_AS": ("ulimit -v", "VmSize"), "RLIMIT_DATA": ("ulimit -d", "VmData")}
"""Limit → the shell's name of it, and the line of /proc/self/status that counts towards it."""

_THREAD_BYTES = 72 << 20
"""Addresses that a thread reserves and hardly uses: its stack (8 MiB) and an arena of glibc."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory that a process can still take, and what allows no more."""

    free: int
    """Bytes."""
    limit: str = ""
    """Such as "ulimit -v of 2.00 GiB"; empty where it is the memory that the machine has free."""


# --- memory ---------------------------------------------------------------------------------------


def available_memory(root: Path = ROOT) -> Memory:
    """The memory of the machine that this process can still take."""
    choices = [Memory(_free_of_machine(root)), *_under_cgroups(root), *_under_rlimits(root)]
    return min(choices, key=lambda each: each.free)


def _free_of_machine(root: Path) -> int:
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
    except FileNotFoundError:  # not Linux, where psutil is installed
        import psutil

        return int(psutil.virtual_memory().available)
    kib = next(line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable:"))
    return int(kib) * 1024


def _under_cgroups(root: Path) -> Iterator[Memory]:
    """What each group on the path leaves. The cache of files counts as used there, but makes way.

    Above memory.high (v2) a group is not refused memory; it is slowed down until it stands still.
    """
    for group in _groups(root, "memory"):
        if group.version == 2:
            limit = min(_bytes(group.path / name) for name in ("memory.max", "memory.high"))
            used = "memory.current"
            cache = ["inactive_file", "active_file", "slab_reclaimable"]
        else:
            limit = _bytes(group.path / "memory.limit_in_bytes")
            used = "memory.usage_in_bytes"
            cache = ["total_inactive_file", "total_active_file"]
        if limit >= _UNLIMITED:
            continue
        stat = dict(line.split() for line in _read(group.path / "memory.stat").splitlines())
        held = _bytes(group.path / used, default=0) - sum(int(stat.get(name, 0)) for name in cache)
        text = f"memory limit of {gib(limit)} of the cgroup {group.name}"
        yield Memory(max(0, int(limit - max(0, held))), text)


def _under_rlimits(root: Path) -> Iterator[Memory]:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    lines = _read(root / "proc/self/status").splitlines()
    status = {name: text for name, _, text in (line.partition(":") for line in lines)}
    for name, (shell, counted) in _RLIMITS.items():
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit == resource.RLIM_INFINITY or counted not in status:
            continue
        used = int(status[counted].split()[0]) * 1024
        if name == "RLIMIT_AS":
            # Threads to come: PyTorch's for the forward and the backward, the sampler, the saver.
            used += (2 * n_cores(root) + 2) * _THREAD_BYTES
        yield Memory(max(0, limit - used), f"{shell} of {gib(limit)}")


# --- CPUs -----------------------------------------------------------------------------------------


def n_cpus(root: Path = ROOT) -> int:
    """CPUs for this process, by its affinity and its cgroups' quotas of time, rounded up.

    Hyper-threads count: this is for threads that wait for memory and files.
    """
    return min(len(cpus_of_this_process()), _cpu_quota(root))


def n_cores(root: Path = ROOT) -> int:
    """Physical cores for this process: threads that compute gain nothing from hyper-threads."""
    cpus = cpus_of_this_process()
    topology = root / "sys/devices/system/cpu"
    siblings = [_read(topology / f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpus]
    cores = {text or str(cpu) for cpu, text in zip(cpus, siblings, strict=True)}
    return min(len(cores), _cpu_quota(root))


def cpus_of_this_process() -> list[int]:
    """Numbers of the CPUs that the process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cpu_quota(root: Path) -> int:
    """Whole CPUs that cover the smallest quota of time on the path."""
    quotas = [math.inf]
    for group in _groups(root, "cpu"):
        if group.version == 2:
            words = _read(group.path / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [_read(group.path / name).strip() for name in names]
        if len(words) == 2 and all(word.isdecimal() for word in words):  # not "max", not -1
            quotas.append(int(words[0]) / int(words[1]))
    smallest = min(quotas)
    return max(1, math.ceil(smallest)) if smallest < math.inf else len(cpus_of_this_process())


# --- cgroups --------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """A control group that this process belongs to."""

    version: int
    name: str
    path: Path


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """The groups of this process that could limit it, from its own up to the mounted root.

    In a container the root that is mounted is often the container's own group, under whose name
    the process is still listed; and what /proc/self/cgroup names may lie outside of the mount.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, own = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 1 and controller not in controllers.split(","):
            continue
        for mounted, mount_point in _mounts(root, version, controller):
            path = PurePosixPath(own)
            if path.is_relative_to(mounted) and ".." not in path.parts:
                path = path.relative_to(mounted)
            else:  # not below what is mounted
                path = PurePosixPath()
            for level in (path, *path.parents):
                name = str("/" / level)
                yield _Group(version, name, root / mount_point.relative_to("/") / level)


def _mounts(
    root: Path, version: int, controller: str
) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Of each mounted hierarchy: the group that is its root, and where it is mounted."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mounted, mount_point = before.split()[3:5]
        kind, *_, options = after.split()
        found = 2 if kind == "cgroup2" else 1 if kind == "cgroup" else 0
        if found == version and (found == 2 or controller in options.split(",")):
            yield PurePosixPath(mounted), PurePosixPath(mount_point)


def _bytes(path: Path, default: float = math.inf) -> float:
    """The number in a file; `default` where there is none, "max" for example."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else default


def _read(path: Path) -> str:
    """The content, or nothing where it can't be read: a file that this kernel does not have."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
