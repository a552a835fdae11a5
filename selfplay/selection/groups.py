"""The group that a pair belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping


def group_name(columns: Mapping[str, object], name: str) -> str | None:
    """The group of a prompt: its column as text (JSON where it is no text); None where its row has none."""
    value = columns.get(name)
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
