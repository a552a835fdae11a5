"""What a process finds out about its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfplay.core import machine
from selfplay.core.machine import DeviceFacts, gpu_memory, this_device


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that reports two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-aaaa, 81559'\necho '1, GPU-bbbb, 143771'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [81559 << 20, 143771 << 20]),
        ("", []),
        ("1", [143771 << 20]),
        ("1,0", [143771 << 20, 81559 << 20]),
        ("GPU-bb", [143771 << 20]),
        ("-1", []),
        ("7", []),
    ],
)
def test_gpus_are_those_that_the_process_may_use(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[int]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_memory() == found


@pytest.mark.parametrize("script", ["echo '0, GPU-a, [N/A]'", "echo 'no devices were found'; exit 9"])
def test_an_nvidia_smi_without_gpus(nvidia_smi: Path, script: str) -> None:
    nvidia_smi.write_text(f"#!/bin/sh\n{script}\n")
    assert gpu_memory() == []
    nvidia_smi.unlink()
    assert gpu_memory() == []


def test_models_run_on_the_largest_gpu_else_on_the_cpu() -> None:
    both = DeviceFacts("n", (16 << 30, 80 << 30), 256 << 30, 128 << 30, None, 8)
    assert (both.has_gpu, both.total, both.available) == (True, 80 << 30, 80 << 30)
    cpu = DeviceFacts("n", (), 256 << 30, 128 << 30, None, 8)
    assert (cpu.has_gpu, cpu.total, cpu.available) == (False, 256 << 30, 128 << 30)


def test_memory_is_within_the_limit_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, meminfo = tmp_path / "memory.max", tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    found = this_device()
    assert (found.cpu_total, found.cpu_available, found.cgroup_limit) == (8000 << 10, 4000 << 10, None)
    assert found.num_cores == len(os.sched_getaffinity(0))
    limit.write_text("max\n")
    assert this_device() == found
    limit.write_text("1024000\n")
    found = this_device()
    assert (found.cpu_total, found.cpu_available, found.cgroup_limit) == (1024000, 1024000, 1024000)


def test_a_cpu_build_of_torch_uses_no_gpu(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "2.13.0+cpu"})
    assert this_device().gpus == ()
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "2.13.0"})
    assert this_device().gpus == (81559 << 20, 143771 << 20)
