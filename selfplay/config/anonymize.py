"""Removes user names, host names and absolute paths from settings that leave the machine.

Settings that only say where the work runs (tag `resource`) are left out as a whole, the cluster's address with them. A place
becomes its last component: what it held is said by its digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.config.diff import SECTIONS, flatten, tag_of
from selfplay.config.load import fields, looks_like_path
from selfplay.config.schema import Config

# a path from the root or the home folder on, inside a longer text; not the path part of a URL, nor a lone slash
_PATH = re.compile(r"(?<![\w:/.~<-])(?:~[\w.-]*)?/(?:[^\s/'\"<>|,;:()\[\]{}]+/)+[^\s/'\"<>|,;:()\[\]{}]*")


def neutral_settings(config: Config) -> dict[str, Any]:
    """The settings that a run's results depend on and that are no defaults, nested as in a config file."""
    defaults = {name: field.default for name, field in fields() if not field.is_required()}
    document: dict[str, Any] = {}
    for name, value in flatten(config).items():
        tag = tag_of(name)
        if name in SECTIONS or tag == "resource" or value is None or (name in defaults and defaults[name] == value):
            continue
        *sections, key = name.split(".")
        target = document
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = neutral_place(value) if tag == "content" else neutral(value)
    return document


def neutral_place(place: str) -> str:
    """A place as others can read it: a hub name or module stays, a path becomes its last component."""
    return Path(place).name if looks_like_path(place) else place


def neutral(value: Any) -> Any:
    """A setting's value with every absolute path in it cut to its last component."""
    if isinstance(value, str):
        return neutral_text(value)
    if isinstance(value, Mapping):
        return {neutral(key): neutral(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [neutral(inner) for inner in value]
    return value


def neutral_text(text: str) -> str:
    """A text with every absolute path in it cut to its last component."""
    return _PATH.sub(lambda found: found.group().rstrip("/").rpartition("/")[2], text)
