"""Settings of `select` that name a place (file, folder, hub name, function): where they are, and how they are made absolute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.config.named_files import absolute_place, is_own_metric, is_template_file

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
    folders = [base, Path.cwd()]
    if not isinstance(value, str):
        return value
    if name == "reward_function" or (name == "metric" and is_own_metric(value)):
        return absolute_place(value, folders, function=True)
    is_place = name in PLACES and (name != "chat_template" or is_template_file(value))
    return absolute_place(value, folders, function=False) if is_place else value
