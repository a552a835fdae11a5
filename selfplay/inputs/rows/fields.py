"""The value of a row by the name of a column, or of a field inside of one (`completions.response`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.printed import parsed_text

# a list, an object, either once more as a JSON text, or an array as numpy prints it
_SERIALISED = ("[", "{", '"[', '"{', "array([")

_MESSAGES = ({"role", "content"}, {"from", "value"})


def is_serialised(value: str) -> bool:
    """Whether a text begins like a list or an object."""
    return value.lstrip().startswith(_SERIALISED)


def unfolded(value: Any) -> Any:
    """The list or object that a text holds (JSON, or as Python prints it), and the list of messages that an object of lists holds
    (as `datasets` stores a sequence of objects); any other value as it is."""
    if isinstance(value, dict) and {*value} in _MESSAGES:
        role, content = value.values()
        if isinstance(role, list) and isinstance(content, list) and len(role) == len(content):
            return [dict(zip(value, entry, strict=True)) for entry in zip(role, content, strict=True)]
    if not isinstance(value, str) or not is_serialised(value):
        return value
    found = parsed_text(value)
    return found if isinstance(found, list | dict) else value


def value_at(values: Mapping[str, Any], name: str) -> Any:
    """A row's value by the name of its column or of a field; of a list of objects, the list of their values. Raises BadValue
    where the row has no such column, or where an object in the way has no such field."""
    if name in values:
        return values[name]
    root, _, path = name.partition(".")
    while path and root not in values:  # a column may have a dot in its name
        more, _, path = path.partition(".")
        root = f"{root}.{more}"
    if not path or root not in values:
        raise BadValue("no_column", f"no column {name!r}")
    found = values[root]
    for part in path.split("."):
        found = _field(unfolded(found), part, name)
    return found


def optional_at(values: Mapping[str, Any], name: str | None) -> Any:
    """As `value_at`; None where the row has no such value (a JSON row may leave out what is null) and where there is no name."""
    if name is None or name in values:
        return None if name is None else values[name]
    if "." not in name:
        return None
    try:
        return value_at(values, name)
    except BadValue:
        return None


def _field(value: Any, part: str, name: str) -> Any:
    if isinstance(value, list):  # an object in a list may leave out what is null, and takes no other with it
        return [None if isinstance(entry, dict) and part not in entry else _field(entry, part, name) for entry in value]
    if value is None:
        return None
    if not isinstance(value, dict) or part not in value:
        raise BadValue("no_column", f"no field {part!r} for {name!r}")
    return value[part]
