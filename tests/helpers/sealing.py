"""Changing a sealed JSON file of a run (RUN.json, attempt.json, .COMMIT.json) so that its seal holds: as a forger, or a newer
version, would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfplay.store.durable import json_with_checksum, parse_checked_json


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """`change` the document in place."""
    document = parse_checked_json(path.read_bytes())
    change(document)
    path.write_bytes(json_with_checksum(document))
