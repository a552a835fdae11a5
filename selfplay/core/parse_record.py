"""Frozen dataclasses read from JSON objects and checked by pydantic: a file may come from anywhere."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

# A record class that is parsed has this as its `__pydantic_config__`: no unknown keys, no conversion of types.
STRICT = ConfigDict(extra="forbid", strict=True)

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
