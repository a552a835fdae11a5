"""YAML 1.2 by ruamel.yaml, with the limits of a config: no tags, keys are words and unique, no deep nesting, no alias bombs.

In YAML 1.2 `1e-5` is a number, and `no` and `on` are strings. Unlike ruamel.yaml, this module reads dates as strings too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, ScalarEvent
from ruamel.yaml.parser import Parser

from selfplay.core.errors import ConfigError

_MAX_DEPTH, _MAX_VALUES = 50, 10_000


class _Parser(Parser):
    """Refuses tags and deep nesting before anything is built of them: the composer recurses."""

    _depth = 0

    def get_event(self) -> Any:
        event = super().get_event()
        line = event.start_mark.line + 1
        if isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.ctag is not None:
            raise ConfigError(f"line {line}: the tag `{event.ctag}`", "Tags are not read: write the value.")
        self._depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if self._depth > _MAX_DEPTH:
            raise ConfigError(f"line {line}: nested more than {_MAX_DEPTH} deep", "No setting is.")
        return event


class _Constructor(SafeConstructor):
    """Dates stay strings; integers are checked for length."""

    def construct_yaml_int(self, node: Any) -> int:
        try:
            return int(super().construct_yaml_int(node))
        except ValueError:  # Python converts no more than 4300 digits
            raise MarkedYAMLError(problem="an integer is too long", problem_mark=node.start_mark) from None


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)
_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def parse(text: str, where: str) -> Any:
    """The document in `text`. Raises ConfigError, which begins with `where` and names line and column."""
    try:
        yaml = _yaml()
        yaml.Parser, yaml.Constructor = _Parser, _Constructor
        document = yaml.load(text)
        if sum(1 for _ in zip(_values(document), range(_MAX_VALUES + 1), strict=False)) > _MAX_VALUES:
            raise ConfigError(f"more than {_MAX_VALUES} values, with aliases expanded", "No config has so many.")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from None
    except DuplicateKeyError as error:
        key = str(error.problem).split(" with value")[0].removeprefix("found duplicate key ")
        raise ConfigError(f"{where}: {_place(error)}the key {key} is given twice", "Delete one of the two.") from None
    except MarkedYAMLError as error:
        problem = error.problem or error.context
        raise ConfigError(f"{where} is not valid YAML: {_place(error)}{problem}", "Fix that line.") from None
    except YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}", "Fix the file.") from None
    return document


def dump(document: Any, *, ascii_only: bool = False) -> str:
    """The document as YAML that `parse` reads back: block style, keys in their order. With `ascii_only`, all other characters are
    escaped, which makes the text safe for a terminal."""
    yaml = _yaml()
    yaml.allow_unicode = not ascii_only
    yaml.default_flow_style = False
    yaml.width = 1000
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.representer.ignore_aliases = lambda data: True
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _place(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


def _values(document: Any) -> Iterator[Any]:
    """All values, those behind aliases as often as they are used. Without end where an alias is inside its own anchor."""
    pending = [document]
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ConfigError(
                        f"the key {key!r} is not a word", "Keys are words; quote it if it is meant as one."
                    )
            pending += value.values()
        elif isinstance(value, list):
            pending += value
