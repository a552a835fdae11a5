"""Labels that `datasets` keeps as numbers (`ClassLabel`): their names stand in the metadata of the Arrow schema, or in that of
the folder (`card_labels`), whose features are the argument `declared`.

The number of a label is its place in a list of names and says nothing by itself: 1 may be the name "response_0", "bad" or "2".
So a label is read as its name, wherever it stands in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from selfplay.core.json_text import parse_json

_KEY = b"huggingface"


def with_names(table: pa.Table, declared: Mapping[str, Any]) -> pa.Table:
    """The table with the names of labels in place of their numbers. A number without a name (-1 is no label) becomes null."""
    for name, feature in (_labelled(table.schema) | dict(declared)).items():
        place = table.schema.get_field_index(name)
        if place >= 0:
            column = table.column(place)
            named = pa.array([_named(value, feature) for value in column.to_pylist()], _type(column.type, feature))
            table = table.set_column(place, name, named)
    return table


def schema_with_names(schema: pa.Schema, declared: Mapping[str, Any]) -> pa.Schema:
    """The schema of what `with_names` gives for tables of this schema."""
    return with_names(schema.empty_table(), declared).schema if declared or _labelled(schema) else schema


def row_with_names(values: dict[str, Any] | None, declared: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of a file without a schema (JSON, CSV) with the names of its labels."""
    if values is None or not declared:
        return values
    return {name: _named(value, declared.get(name)) for name, value in values.items()}


def labelled_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """Of features, as `datasets` writes them as JSON, those that hold labels at any depth."""
    return {name: feature for name, feature in features.items() if _has_labels(feature)}


def _labelled(schema: pa.Schema) -> dict[str, Any]:
    """The features, as `datasets` writes them, of the columns that hold labels at any depth."""
    try:
        features = parse_json((schema.metadata or {})[_KEY])["info"]["features"]
        return labelled_features(features)
    except (KeyError, TypeError, ValueError, AttributeError):  # no metadata, or that of another program
        return {}


def _is_label(feature: Any) -> bool:
    return (
        isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    )


def _has_labels(feature: Any) -> bool:
    if isinstance(feature, list):
        return any(map(_has_labels, feature))
    return _is_label(feature) or (isinstance(feature, Mapping) and any(map(_has_labels, feature.values())))


def _inside(feature: Any, name: str | None = None) -> Any:
    """The feature of the entries of a list, or of the field `name` of a struct; None where there is none."""
    if name is None:
        return feature[0] if isinstance(feature, list) and feature else _inside(feature, "feature")
    return feature.get(name) if isinstance(feature, Mapping) else None


def _named(value: Any, feature: Any) -> Any:
    if not _has_labels(feature):
        return value
    if isinstance(value, list):
        return [_named(entry, _inside(feature)) for entry in value]
    if isinstance(value, dict):
        return {name: _named(entry, _inside(feature, name)) for name, entry in value.items()}
    return _name(value, [str(name) for name in feature["names"]]) if _is_label(feature) else value


def _name(value: Any, names: list[str]) -> Any:
    """The name of a label. A text is one already, or else the number as text, as `datasets` reads it; another text stays."""
    if isinstance(value, str) and value not in names and value.strip().removeprefix("-").isdecimal():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return names[int(value)] if value in range(len(names)) else None
    return value


def _type(kind: pa.DataType, feature: Any) -> pa.DataType:
    """The type of what `_named` makes of values of a type."""
    if not _has_labels(feature):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_type(field.type, _inside(feature, field.name))) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_type(kind.value_type, _inside(feature)))
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return pa.string() if _is_label(feature) and is_number else kind
