"""The base class of the sections of the schema."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused, no coercion ("3" is no number, `no` is no flag)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refuse(section: Section, names: tuple[str, ...], why: str) -> None:
    """ValueError for a setting that was given a value of its own where it does nothing."""
    for name in names:
        if name in section.model_fields_set and getattr(section, name) != type(section).model_fields[name].default:
            raise ValueError(f"`{name}` {why}")


def require_commit(revision: str | None, *, trust_remote_code: bool) -> None:
    """ValueError for code of a model that is trusted and not pinned."""
    if trust_remote_code and not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise ValueError("trust_remote_code needs `revision` to be a full commit sha (40 hex digits)")
