"""YAML as people mean it: duplicate keys are refused, `1e-5` is a number, `no` and `on` are strings, no tags.

PyYAML's safe loader follows YAML 1.1, where each of these is a trap in a config of learning rates and flags.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from selfplay.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    pass


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _StrictLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(
                f"line {line}: the key {key!r} is no word", "Keys are words; quote it if it is meant as one."
            )
        if key in seen:
            raise ConfigError(
                f"the key `{key}` stands twice (lines {seen[key]} and {line})",
                "Keep one of the two: the other would be lost.",
            )
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    # YAML 1.1 would read 010 as eight
    return int(str(loader.construct_scalar(node)))


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse(text: str, where: str) -> Any:
    """The document in `text`; `where` names it in errors (ConfigError)."""
    try:
        for event in yaml.parse(text, _StrictLoader):
            if (tag := getattr(event, "tag", None)) is not None:
                assert event.start_mark is not None, "events of a text have their place in it"
                raise ConfigError(
                    f"line {event.start_mark.line + 1}: the tag `{tag}`", "Tags are not read: write the value."
                )
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}", "Mend the line named above.") from None
