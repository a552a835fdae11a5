"""One value of a row as text, number, id, embedding or JSON."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.printed import parsed_text

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)


def text(value: Any, name: str) -> str:
    """The text unchanged, control characters included. Raises BadValue for a value that is not text, is blank, or is
    not valid Unicode (half a surrogate pair, from broken escapes or bytes)."""
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
    """A number, from a number, a boolean (1 or 0) or the text of one (CSV). None for null and for an empty field.
    NaN and infinity are returned as they are; a number too large for a float is infinite. Raises BadValue."""
    if isinstance(value, str):
        value = value.strip()
        value = {"true": True, "false": False}.get(value.lower(), value)
    if value is None or value == "":
        return None
    # Python alone reads "1_000" as a number: in a table it is a mistake.
    if not isinstance(value, list | dict | bytes) and not (isinstance(value, str) and "_" in value):
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except (TypeError, ValueError):
            pass
    shown = repr(value[:40]) if isinstance(value, str) else type(value).__name__
    raise BadValue("not_a_number", f"{name} is not a number but {shown}")


def embedding(value: Any, name: str, width: int | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A list of finite numbers, of `width` where that is known. Raises BadValue."""
    if value is None:
        raise BadValue("null_value", f"{name} is null")
    value = parsed_text(value) if isinstance(value, str) else value
    if not isinstance(value, list) or not value:
        raise BadValue("not_an_embedding", f"{name} is not a list of numbers")
    row = [number(entry, f"entry {at} of {name}") for at, entry in enumerate(value, 1)]
    if None in row:
        raise BadValue("not_an_embedding", f"{name} contains null")
    if width is not None and len(row) != width:
        raise BadValue("not_an_embedding", f"{name} has {len(row)} numbers, the first row has {width}")
    with np.errstate(over="ignore"):
        found = np.array(row, np.float64).astype(np.float32)
    if not np.isfinite(found).all():
        raise BadValue("not_finite", f"{name} contains a number that is not finite in float32")
    return found


def user_id(value: Any) -> str | None:
    """A user's id as text; None for what is neither text nor an integer."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return text(str(value), "the id")
    except (BadValue, ValueError):  # str() refuses integers of thousands of digits
        return None


def group_name(value: Any) -> str | None:
    """A group as text; None where the row has none."""
    if isinstance(value, str):
        return value.encode("utf-8", errors="replace").decode("utf-8")
    return None if value is None else lenient_json(value)


def content_hash(value: Any) -> str:
    """16 hex digits of a value of lists, dicts, valid texts and numbers."""
    return hashlib.sha256(_ENCODER.encode(value).encode("utf-8")).hexdigest()[:16]


def lenient_json(value: Any) -> str:
    """JSON with sorted keys and no spaces. A value that JSON does not have becomes its `str`, NaN and infinity become
    null, half a surrogate pair becomes a question mark."""
    try:
        document = _ENCODER.encode(value)
    except (TypeError, ValueError):  # NaN, infinity, or keys that are not texts
        document = _ENCODER.encode(_jsonable(value))
    return document.encode("utf-8", errors="replace").decode("utf-8")


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    return str(value)
