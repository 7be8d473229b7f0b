"""How much memory this job may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def memory_budget() -> int:
    """Bytes that this job may use: the least of the host's memory, cgroup's and SLURM's limits."""
    limits = [int(psutil.virtual_memory().total), *_cgroup_limits()]
    per_node = os.environ.get("SLURM_MEM_PER_NODE", "")
    per_cpu = os.environ.get("SLURM_MEM_PER_CPU", "")
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit():
        limits.append(int(per_node) * 1024**2)
    elif per_cpu.isdigit() and cpus.isdigit():
        limits.append(int(per_cpu) * int(cpus) * 1024**2)
    # SLURM says 0 for the whole node.
    return min(limit for limit in limits if limit > 0)


def _cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Memory limits of this process's control groups and of all above them."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            base, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = base / place.lstrip("/")
        for folder in (inner, *inner.parents):
            limit = folder / file
            if folder.is_relative_to(base) and limit.is_file():
                text = limit.read_text().strip()
                if text.isdigit():
                    yield int(text)
