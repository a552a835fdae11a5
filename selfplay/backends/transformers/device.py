"""The device of a worker's process, and the defaults that follow from it."""

from __future__ import annotations

import torch

from selfplay.core.errors import ConfigError

# Only a GPU gains from large batches.
BATCH_TOKENS = {"cuda": 16384, "cpu": 2048}


def this_device() -> torch.device:
    """CUDA if there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_dtype(name: str, device: torch.device, setting: str) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is several times slower.

    Raises ConfigError, which names `setting`, for other names.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"{setting} is {name!r}", "Use auto, float32, bfloat16 or float16.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
