"""YAML as people mean it: duplicate keys are refused, `1e-5` is a number, `no` and `on` are strings, no tags.

PyYAML's safe loader follows YAML 1.1, where each of these is a trap in a config of learning rates and flags.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from selfplay.core.errors import ConfigError

_DEEPEST, _LARGEST = 50, 10_000


class _Anchors:
    """How many values an event stands for. Aliases of aliases are a few lines, and gigabytes where they are written out."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str | None, int]] = []
        self._sizes: dict[str, int] = {}

    def size(self, event: yaml.Event) -> int:
        """Of the next event: 1, that of the anchor that an alias names (one that is still open holds itself: too many), or 0."""
        before = self._count
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, start = self._open.pop()
            if anchor is not None:
                self._sizes[anchor] = self._count - start
            return 0
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._count))
            self._count += 1
        elif isinstance(event, yaml.ScalarEvent):
            self._count += 1
            if event.anchor is not None:
                self._sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            is_open = any(anchor == event.anchor for anchor, _ in self._open)
            self._count += _LARGEST + 1 if is_open else self._sizes.get(event.anchor or "", 0)
        return self._count - before


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
    try:
        return int(str(loader.construct_scalar(node)))
    except ValueError:  # Python reads no number of more than 4300 digits
        line = node.start_mark.line + 1
        raise ConfigError(f"line {line}: a number of thousands of digits", "Give a smaller one.") from None


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse(text: str, where: str) -> Any:
    """The document in `text`; `where` names it in errors (ConfigError)."""
    try:
        depth, size, anchors = 0, 0, _Anchors()
        for event in yaml.parse(text, _StrictLoader):
            assert event.start_mark is not None, "events of a text have their place in it"
            line = event.start_mark.line + 1
            if (tag := getattr(event, "tag", None)) is not None:
                raise ConfigError(f"line {line}: the tag `{tag}`", "Tags are not read: write the value.")
            size += anchors.size(event)
            if size > _LARGEST:
                raise ConfigError(
                    f"line {line}: more than {_LARGEST} values, aliases written out", "No run has as many."
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ConfigError(f"line {line}: nested more than {_DEEPEST} deep", "No setting is.")
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}", "Mend the line named above.") from None
