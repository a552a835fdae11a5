"""The GPUs, memory and cores that this process can use."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from selfplay.core.versions import versions

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What one process found on its node; sizes in bytes. `gpus`: total memory of each GPU that it may use; `cpu_total` and
    `cpu_available`: memory of the machine, within `cgroup_limit` (None: no limit). Example:
    DeviceFacts("node-3", (80 << 30,), 256 << 30, 200 << 30, None, 32)"""

    node: str
    gpus: tuple[int, ...]
    cpu_total: int
    cpu_available: int
    cgroup_limit: int | None
    num_cores: int

    @property
    def has_gpu(self) -> bool:
        """Whether models run on a GPU."""
        return bool(self.gpus)

    @property
    def total(self) -> int:
        """Memory of the largest device that models run on."""
        return max(self.gpus, default=self.cpu_total)

    @property
    def available(self) -> int:
        """As `total`; on a CPU what is free now."""
        return max(self.gpus, default=self.cpu_available)


def this_device() -> DeviceFacts:
    """The facts of this process. A CPU build of torch uses no GPU."""
    limit = _cgroup_limit()
    total, available = _cpu_memory()
    if limit is not None:
        total, available = min(total, limit), min(available, limit)
    on_cpu = versions().get("torch", "").endswith("+cpu")
    gpus = () if on_cpu else tuple(gpu_memory())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DeviceFacts(platform.node(), gpus, total, available, limit, cores)


def _cpu_memory() -> tuple[int, int]:
    """Total and available bytes of the machine."""
    if not MEMINFO.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    values = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(values["MemTotal"].split()[0]) * 1024, int(values["MemAvailable"].split()[0]) * 1024


def _cgroup_limit() -> int | None:
    """The memory limit of this process's control group, in bytes."""
    text = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else ""
    return int(text) if text.isdigit() else None


def gpu_memory() -> list[int]:
    """Total bytes of each NVIDIA GPU that this process may use, from nvidia-smi and CUDA_VISIBLE_DEVICES; empty without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if found.returncode:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in found.stdout.splitlines()]
    known = [(row[0], row[1], int(row[2]) << 20) for row in rows if len(row) == 3 and row[2].isdigit()]
    if visible is None:
        return [size for _, _, size in known]
    # CUDA takes an index or the beginning of a UUID
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [
        size
        for name in names
        for index, uuid, size in known
        if name == index or (not name.isdigit() and uuid.startswith(name))
    ]
