"""Frozen dataclasses as JSON objects and back. What is read is checked by pydantic: a file may come from anywhere."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

# A record class that is parsed has this as its `__pydantic_config__`: no unknown keys, no conversion of types.
STRICT = ConfigDict(extra="forbid", strict=True)

# marks a field with a nested record whose keys lie in the object of the outer one
FLAT = {"flat": True}

RecordT = TypeVar("RecordT")


@functools.cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))  # slow


def parse_record(kind: type[RecordT], document: Any) -> RecordT:
    """The record of a JSON value. Raises ValueError for a missing, unknown or invalid key; the message is one line."""
    try:
        # JSON is the one input in which pydantic's strict mode takes an object for a nested dataclass
        record: RecordT = _adapter(cast(Hashable, kind)).validate_json(json.dumps(document))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]]
        raise ValueError("; ".join(faults).replace("Value error, ", "")) from None
    return record


@functools.cache
def _flat_fields(kind: type[Any]) -> dict[str, type]:
    """The flat fields of a record class, with their classes."""
    hints = typing.get_type_hints(kind)
    found = {}
    for each in dataclasses.fields(kind):
        if each.metadata == FLAT:
            members = typing.get_args(hints[each.name]) or (hints[each.name],)
            found[each.name] = next(member for member in members if member is not type(None))
    return found


def nested(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the keys of flat fields moved into objects of their own."""
    found = dict(document)
    for name, inner in _flat_fields(kind).items():
        if name in found:
            raise ValueError(f"unknown key {name!r}")
        keys = [each.name for each in dataclasses.fields(inner) if each.name in found]
        if keys:
            found[name] = {key: found.pop(key) for key in keys}
    return found


def to_document(record: Any) -> dict[str, Any]:
    """The JSON object of a record: a field whose default is None has no key while it is None."""
    plain = dataclasses.asdict(record)
    document: dict[str, Any] = {}
    for each in dataclasses.fields(record):
        value = getattr(record, each.name)
        if value is not None or each.default is not None:
            document |= to_document(value) if each.metadata == FLAT else {each.name: plain[each.name]}
    return document
