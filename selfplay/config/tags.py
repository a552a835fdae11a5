"""What a change of a setting means for a run that has begun: the tag every config field carries.

identity    the run is another run with another value: refused on resume, a fork is offered
content     a place (file, folder, hub name, function): may move, but its content digest is identity
extendable  may grow on resume
resource    devices, batch splits, budgets: may change freely, results do not depend on it
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

Tag = Literal["identity", "content", "extendable", "resource"]


def tagged(tag: Tag, default: Any, description: str, **constraints: Any) -> Any:
    """A pydantic field with its tag; `...` as the default makes it required."""
    return Field(default, description=description, json_schema_extra={"tag": tag}, **constraints)


def identity(default: Any, description: str, **constraints: Any) -> Any:
    """A field with this tag; the module's docstring says what it means."""
    return tagged("identity", default, description, **constraints)


def content(default: Any, description: str, **constraints: Any) -> Any:
    """A field with this tag; the module's docstring says what it means."""
    return tagged("content", default, description, **constraints)


def resource(default: Any, description: str, **constraints: Any) -> Any:
    """A field with this tag; the module's docstring says what it means."""
    return tagged("resource", default, description, **constraints)
