"""Settings whose value names a file of the user's own: functions, the metric (or one of ours), the chat template (or a word).

Their content is pinned, so that the file may lie elsewhere on a resume. What such a setting stands for, beside the content, is
the file's name without its folder, and of a function that may be in a file or in a module, its own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

METRIC, TEMPLATE = "selection.metric", "policy.chat_template"
NO_TEMPLATE = "none"


def is_function(setting: str) -> bool:
    """Whether a setting names a function (`module:function` or `file.py:function`) and nothing else."""
    return setting.endswith((".function", ".gold"))


def is_own_metric(name: str) -> bool:
    """Whether the name says a function of the user's (`file.py:function`) and not one of our metrics."""
    return ":" in name or name.endswith(".py")


def is_template_file(value: str) -> bool:
    """Whether a chat template is given as a file, and not as the word `none` or as the template itself."""
    return value != NO_TEMPLATE and "{{" not in value and "{%" not in value


def without_folder(value: str) -> str:
    """A file, or a function in a file, by its name: what stays the same when the file moves."""
    return PurePath(value).name


def identity_value(setting: str, value: Any) -> Any:
    """What a setting's value means for the identity of a run: of a file of the user's own, its name."""
    if not isinstance(value, str):
        return value
    if is_function(setting):
        return value.rpartition(":")[2]
    own = (setting == METRIC and is_own_metric(value)) or (setting == TEMPLATE and is_template_file(value))
    return without_folder(value) if own else value


def absolute_place(value: str, folders: Sequence[Path], *, function: bool) -> str:
    """The absolute path of a file or folder in the first folder that has it; of `path:function` with the function. What is
    in none of them stays as it is (a hub name, an installed module)."""
    path, colon, name = value.rpartition(":") if function else (value, "", "")
    if function and not path.endswith(".py"):
        if "." in path:
            return value  # a module inside a package is imported, not found as a file
        path += ".py"
    for folder in folders:
        found = folder / Path(path).expanduser()
        if found.is_file() or (not function and found.is_dir()):
            return f"{found.resolve()}{colon}{name}"
    return value
