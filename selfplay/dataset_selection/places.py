"""Settings of `select` that name a place (file, folder, hub name, function): where they are, and how they are made absolute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Where something lies; its content is pinned by a digest.
PLACES = ("dataset", "policy", "reference", "reward_model", "embedding_model", "chat_template")
# file.py:function or module:function
FUNCTIONS = ("reward_function", "metric")


def absolute_places(document: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The settings with absolute places, those of sources and of parts of the reward included. A place is looked for in `base`,
    then in the working directory; what is found in neither stays as it is (a hub name)."""
    found = {name: _placed(name, value, base) for name, value in document.items()}
    if isinstance(sources := document.get("sources"), Mapping):
        found["sources"] = {
            name: {key: _placed(key, value, base) for key, value in source.items()}
            if isinstance(source, Mapping)
            else {"dataset": _placed("dataset", source, base)}
            for name, source in sources.items()
        }
    if isinstance(reward := document.get("reward"), Mapping) and isinstance(reward.get("parts"), Mapping):
        parts = {name: _placed_part(part, base) for name, part in reward["parts"].items()}
        found["reward"] = {**reward, "parts": parts}
    return found


def _placed_part(part: Any, base: Path) -> Any:
    if not isinstance(part, Mapping):
        return part
    ours = {"model": "reward_model", "function": "reward_function"}
    return {name: _placed(ours.get(str(name), str(name)), value, base) for name, value in part.items()}


def _placed(name: str, value: Any, base: Path) -> Any:
    is_template = name == "chat_template" and isinstance(value, str) and (value == "none" or "{" in value)
    if name not in (*PLACES, *FUNCTIONS) or not isinstance(value, str) or is_template:
        return value
    return value if name == "metric" and ":" not in value else _absolute(value, base)


def _absolute(value: str, base: Path) -> str:
    """The absolute path where there is one (of `path` or `path:function`, a module's file included), else the value."""
    path, colon, name = value.rpartition(":")
    is_function = bool(colon) and name.isidentifier()
    tried = [f"{path}.py"] if is_function and "/" not in path and not path.endswith(".py") else [path]
    for place in tried if is_function else [value]:
        for folder in (base, Path.cwd()):
            found = Path(folder, Path(place).expanduser())
            if found.exists():
                return f"{found.resolve()}{colon}{name}" if is_function else str(found.resolve())
    return value


def function_name(spec: str) -> str:
    """A function without the folder of its file: what stays the same when the file moves."""
    file, colon, name = spec.rpartition(":")
    return f"{Path(file).name}:{name}" if colon else spec
