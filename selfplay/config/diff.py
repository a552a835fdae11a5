"""The differences between the configuration of a run and the one that it is resumed with."""

from __future__ import annotations

import functools
import json
import operator
from dataclasses import dataclass
from typing import Any

from selfplay.config.load import NAMED, fields, values_of
from selfplay.config.named_files import identity_value, is_function
from selfplay.config.pass_through import ENGINE_KEYS, TRL_KEYS
from selfplay.config.schema import Config
from selfplay.config.tags import Tag

PASS_THROUGH = {"sampling.engine": ENGINE_KEYS, "training.trl": TRL_KEYS}
# sections that may be absent; whether they are there is compared under their own names
SECTIONS = ("training.lora", "sampling.mix", "evaluation")


@dataclass(frozen=True, slots=True)
class Change:
    """One setting with another value; `tag` says what that means for the run."""

    name: str
    before: Any
    after: Any
    tag: Tag


def flatten(config: Config) -> dict[str, Any]:
    """Dotted name -> value of every setting; pass-through keys and named sections one by one; a section that is not there
    gives nulls."""
    document = config.model_dump()
    flat: dict[str, Any] = {}
    for schematic, _ in fields():
        for name, value in values_of(document, schematic.split(".")):
            if name in PASS_THROUGH:
                flat.update({f"{name}.{key}": inner for key, inner in (value or {}).items()})
            else:
                flat[name] = value
    # a section given with all its defaults differs from no section at all
    return flat | {name: operator.attrgetter(name)(config) is not None for name in SECTIONS}


def _stands_for(schematic: str, name: str) -> bool:
    """Whether a setting's name in the schema is that of a dotted setting."""
    known, given = schematic.split("."), name.split(".")
    return len(known) == len(given) and all(one in (NAMED, other) for one, other in zip(known, given, strict=True))


@functools.cache
def tag_of(name: str) -> Tag:
    """The tag of a dotted setting, pass-through keys included."""
    for prefix, tags in PASS_THROUGH.items():
        if name.startswith(prefix + "."):
            return tags.get(name.removeprefix(prefix + "."), "identity")
    for known, field in fields():
        if _stands_for(known, name):
            return field.json_schema_extra["tag"]  # type: ignore[no-any-return]
    assert name in SECTIONS, name
    return "identity"


def changes(before: Config, after: Config) -> list[Change]:
    """Settings whose values differ, in the schema's order."""
    old, new = flatten(before), flatten(after)
    if _written(old) == _written(new):
        return []
    names = [*old, *(name for name in new if name not in old)]
    return [
        Change(name, old.get(name), new.get(name), _tag_of_change(name, old.get(name), new.get(name)))
        for name in names
        if _written(old.get(name)) != _written(new.get(name))
    ]


def _tag_of_change(name: str, before: Any, after: Any) -> Tag:
    """The tag of a setting for one change of it. A file of the user's own may move (its content is pinned), and another function
    of the same file is another function."""
    same = identity_value(name, before) == identity_value(name, after)
    if is_function(name) and None not in (before, after):
        return "content" if same else "identity"
    return "content" if same and before != after else tag_of(name)


def _written(value: Any) -> str:
    """As the fingerprint sees it: to Python 1, 1.0 and true are equal, to a run they are different settings."""
    return json.dumps(value, sort_keys=True)


def identity_document(config: Config) -> dict[str, Any]:
    """The identity settings of a configuration. Paths are left out: content digests replace them, for functions together with
    their names."""
    return {
        name: identity_value(name, value)
        for name, value in flatten(config).items()
        if tag_of(name) == "identity" or (is_function(name) and value is not None)
    }
