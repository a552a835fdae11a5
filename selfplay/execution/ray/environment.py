"""Environment variables of the driver and of its workers: quiet, and with the GPUs and threads that their role has."""

from __future__ import annotations

import os

from selfplay.config.running import RoleConfig

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # a thread that still waits when Ray has been shut down must not start another one
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
# otherwise Ray hides all GPUs from a worker that reserves none
KEEP_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def set_environment() -> None:
    """Set them in the driver, before Ray is imported; what the user has set stays."""
    for name, value in {**QUIET, **KEEP_GPUS}.items():
        os.environ.setdefault(name, value)


def worker_environment(config: RoleConfig) -> dict[str, str]:
    """Those of a worker of a role."""
    return {**QUIET, "OMP_NUM_THREADS": str(config.threads), "MKL_NUM_THREADS": str(config.threads)}
