"""JSON from a file that may come from anywhere."""

from __future__ import annotations

import json
from typing import Any

# deeper than any document of the package or of a dataset's rows; far below what Python's recursion takes when it is written again
MAX_DEPTH = 100


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that raises ValueError for every invalid text, also for one that is nested more than MAX_DEPTH deep, and for
    an object that has a key twice, of which JSON does not say which value counts."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    opened = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if opened > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)[:40]!r} twice")
    return made


def _depth_exceeds(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
