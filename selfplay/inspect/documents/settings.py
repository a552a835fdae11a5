"""The settings there are and the ones a run or a file has (`config`)."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from selfplay.config.load import fields, load_config
from selfplay.inspect.reading import SCHEMA_VERSION, open_store
from selfplay.store.run_state import config_in_force


def schema_document() -> dict[str, Any]:
    """The document of `config schema --json`: a row for each setting, in the order of the schema."""
    return {"schema_version": SCHEMA_VERSION, "settings": [_setting(name, field) for name, field in fields()]}


def show_document(path: Path) -> dict[str, Any]:
    """The settings of a run (its newest attempt's) or of a config file, defaults filled in. Raises ConfigError."""
    if path.is_dir():
        return config_in_force(open_store(path))
    return load_config(path).model_dump(mode="json")


def _setting(name: str, field: Any) -> dict[str, Any]:
    required = field.is_required()
    return {
        "name": name,
        "type": type_name(field.annotation),
        "required": required,
        "default": None if required else field.get_default(call_default_factory=True),
        "tag": field.json_schema_extra["tag"],
        "description": field.description,
        "rule": ", ".join(_rule(item) for item in field.metadata),
    }


def _rule(constraint: Any) -> str:
    """One bound in the usual notation, as in `>= 1`."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    (name,) = [name for name in signs if hasattr(constraint, name)]
    return f"{signs[name]} {getattr(constraint, name)}"


def type_name(annotation: Any) -> str:
    """A type in the terms of YAML: `text or null`, `float32 | bfloat16`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    return names[annotation]
