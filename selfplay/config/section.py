"""The base class of the sections of the schema."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused, no coercion ("3" is no number, `no` is no flag)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refuse(section: Section, names: tuple[str, ...], why: str) -> None:
    """ValueError for a setting that was given a value of its own where it does nothing."""
    for name in names:
        if name in section.model_fields_set and getattr(section, name) != type(section).model_fields[name].default:
            raise ValueError(f"`{name}` {why}")


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit sha."""
    return revision is not None and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision)
