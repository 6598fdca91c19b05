"""What this process may use: threads and memory, by affinity and cgroup limits, not by what the host has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def usable_threads(root: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """CPU cores this process may keep busy: the smaller of its affinity and its cgroup quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _own_cgroups(root, membership) if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([cores, *(int(quota) for quota in quotas)]))


def usable_memory(root: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """Bytes this process may still allocate: what the host has available, within its cgroup's limit."""
    rooms = [room for folder in _own_cgroups(root, membership) if (room := _memory_room(folder)) is not None]
    return max(0, min([_host_available(), *rooms]))


def _own_cgroups(root: Path, membership: Path) -> Iterator[Path]:
    """Folders whose limits apply to this process: its own cgroup and those above it, in version 1 or 2."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            mount = root / controller.removeprefix("name=")
            # Inside a container the path is often the host's and does not exist; the mount itself is then our cgroup.
            own = mount / path.lstrip("/")
            yield mount
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount) and folder != mount)
    yield root


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdigit() else None


def _cpu_quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    limit, window = _read_number(folder / "cpu.cfs_quota_us"), _read_number(folder / "cpu.cfs_period_us")
    return limit / window if limit is not None and limit > 0 and window else None


def _memory_room(folder: Path) -> int | None:
    """Bytes left under the folder's limit; page cache does not count as used, since it gives way."""
    for limit_name, usage_name in _MEMORY_FILES:
        limit, usage = _read_number(folder / limit_name), _read_number(folder / usage_name)
        if limit is not None and usage is not None:
            return limit - usage + _reclaimable(folder)
    return None


def _reclaimable(folder: Path) -> int:
    try:
        pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        counts = {name: int(value) for name, value in pairs}
    except (OSError, ValueError):
        return 0
    return sum(counts.get(name, 0) for name in ("inactive_file", "active_file"))


def _host_available() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
