"""One value of a row as a text or a number, or why it is none."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from selfplay.dataset_selection.reading.dataset import BadValue

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def text(value: Any, name: str) -> str:
    """The text unchanged, control characters included. Raises BadValue where it is none, blank, or not Unicode (half
    a surrogate pair, from broken escapes or bytes)."""
    if value is None:
        raise BadValue("null_value", f"{name} is null")
    if not isinstance(value, str):
        raise BadValue("not_text", f"{name} is not text but {type(value).__name__}")
    if not value or value.isspace():
        raise BadValue("empty_text", f"{name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadValue("not_unicode", f"{name} is not valid Unicode at character {error.start + 1}") from error
    return value


def number(value: Any, name: str) -> float | None:
    """A finite number, from a number or a text that is one (CSV); None for null and for an empty field. Raises
    BadValue for everything else."""
    found = any_number(value, name)
    if found is not None and not math.isfinite(found):
        raise BadValue("not_finite", f"{name} is {_shown(value)}")
    return found


def any_number(value: Any, name: str) -> float | None:
    """`number`, with NaN and infinity as they are; what is too large is infinite."""
    if isinstance(value, str):
        value = value.strip()
        if value == "":
            return None
    if value is None:
        return None
    # Python alone reads "1_000" as a number: in a table it is a mistake.
    if isinstance(value, bool | list | dict | bytes) or (isinstance(value, str) and "_" in value):
        raise BadValue("not_a_number", f"{name} is no number but {_shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    except (TypeError, ValueError):
        raise BadValue("not_a_number", f"{name} is no number but {_shown(value)}") from None
    return found


def row_id(value: Any) -> str | None:
    """A user's id as text; None where it is neither a text nor an integer."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        found = text(str(value), "the id")
    except (BadValue, ValueError):  # str() refuses integers of thousands of digits
        return None
    return found


def content_hash(value: Any) -> str:
    """16 hex digits of a value of lists, dicts, texts and numbers."""
    return hashlib.sha256(_ENCODER.encode(value).encode("utf-8")).hexdigest()[:16]


def _shown(value: Any) -> str:
    shown = str(value) if isinstance(value, float) else f"{type(value).__name__}"
    if isinstance(value, str):
        shown = repr(value[:40])
    elif isinstance(value, int) and not isinstance(value, bool):
        shown = "too large"
    return shown
