"""Settings whose value is either a word or a file of the user's own: the metric and the chat template.

Their content is pinned, so that the file may lie elsewhere on a resume. What such a setting stands for, beside the content, is
the file's name without its folder.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

METRIC, TEMPLATE = "selection.metric", "policy.chat_template"
NO_TEMPLATE = "none"


def is_own_metric(name: str) -> bool:
    """Whether the name says a function of the user's (`file.py:function`) and not one of our metrics."""
    return ":" in name or name.endswith(".py")


def is_template_file(value: str) -> bool:
    """Whether a chat template is given as a file, and not as the word `none` or as the template itself."""
    return value != NO_TEMPLATE and "{{" not in value and "{%" not in value


def identity_value(setting: str, value: Any) -> Any:
    """What a setting's value means for the identity of a run: of a file of the user's own, its name."""
    if isinstance(value, str) and (
        (setting == METRIC and is_own_metric(value)) or (setting == TEMPLATE and is_template_file(value))
    ):
        return PurePath(value).name
    return value
