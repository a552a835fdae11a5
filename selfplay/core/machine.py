"""The memory of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def available_memory() -> int:
    """Bytes a training could take: the largest GPU's memory where there is one, else what the kernel calls available, within
    the limit of this process's control group."""
    gpu = gpu_memory()
    if gpu:
        return max(gpu)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(values["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text))
    return available


def gpu_memory() -> list[int]:
    """Total bytes of each NVIDIA GPU, by nvidia-smi; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return [int(line) << 20 for line in found.stdout.split() if line.isdigit()] if found.returncode == 0 else []
