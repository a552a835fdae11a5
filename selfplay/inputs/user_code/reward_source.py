"""Where a reward function lives; see `selfplay/inputs/user_code/loading.py`. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfplay.inputs.user_code import loading as user_code

_WHAT = "reward function"


def source_file(spec: str, search_path: str | Path) -> Path:
    """The file that holds the function of `spec`. Raises ConfigError when there is none."""
    return user_code.source_file(spec, search_path, what=_WHAT)


def source_digest(spec: str, search_path: str | Path) -> str:
    """sha256 (hex) that pins a run to the function's source, with what it imports from beside it (`user_code.source_digest`)."""
    return user_code.source_digest(spec, search_path, what=_WHAT)


def load_function(spec: str, search_path: str | Path) -> Callable[..., Any]:
    """The function of `spec`, imported. Raises ConfigError when there is none or its file does not import."""
    return user_code.load_function(spec, search_path, what=_WHAT)
