"""What a change of a setting means for a run that has begun: the tag every config field carries.

identity    the run is another run with another value: refused on resume, a fork is offered
content     a place (file, folder, hub name, function): may move, but its content digest is identity
extendable  may grow on resume
resource    devices, batch splits, budgets: may change freely, results do not depend on it
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from pydantic import Field

Tag = Literal["identity", "content", "extendable", "resource"]


def tagged(tag: Tag, default: Any, description: str, **constraints: Any) -> Any:
    """A pydantic field with its tag; `...` as the default makes it required."""
    return Field(default, description=description, json_schema_extra={"tag": tag}, **constraints)


identity, content, resource = (functools.partial(tagged, tag) for tag in ("identity", "content", "resource"))
"""A field with this tag, as in `identity(0.1, "what it is", gt=0)`; the module's docstring says what the tags mean."""
