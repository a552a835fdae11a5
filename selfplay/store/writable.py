"""A run that can only be read: on a read-only disk, or somebody else's. Each command says what can be done with it instead."""

from __future__ import annotations

import os
from pathlib import Path

from selfplay.core.errors import SelfplayError


def require_writable(root: Path, way_out: str) -> None:
    """Raise SelfplayError, with the hint `way_out`, for a folder in which this user cannot create files."""
    if not os.access(root, os.W_OK | os.X_OK):
        raise SelfplayError(f"{root} can only be read by this user, or its disk is mounted read-only", way_out)
