"""Settings of the cut that fit together, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from selfplay.selection.keep_limits import check_limits

NONE: dict[str, Any] = {
    "keep": 0.4, "keep_lowest": False, "keep_per_group": None, "min_per_group": None, "max_per_prompt": None,
    "has_groups": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"keep_per_group": 1},
        {"keep_per_group": 0.5, "min_per_group": 3},
        {"keep_per_group": {"base": 1.0, "extra": 500, "none": 0}, "keep": 1.0},
        {"keep_lowest": True},
        {"keep_lowest": True, "keep": 1.0, "max_per_prompt": 1},
    ],
)
def test_what_fits(settings: dict[str, Any]) -> None:
    check_limits(**{**NONE, **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep_per_group": 5, "has_groups": False}, "needs `group_column`"),
        ({"min_per_group": 5, "has_groups": False}, "needs `group_column`"),
        ({"keep_per_group": 0}, "`keep_per_group` is 0"),
        ({"keep_per_group": 1.5}, "`keep_per_group` is 1.5"),
        ({"keep_per_group": True}, "`keep_per_group` is True"),
        ({"keep_per_group": {"maths": -1}}, "`keep_per_group` of 'maths' is -1"),
        ({"keep_per_group": {"maths": False}}, "`keep_per_group` of 'maths' is False"),
        ({"keep_per_group": 2, "min_per_group": 3}, "less than `min_per_group`"),
        ({"keep": 1.0, "min_per_group": 3}, "`min_per_group` does nothing"),
        ({"keep": 1.0, "keep_lowest": True}, "`keep_lowest` does nothing"),
    ],
)
def test_what_does_not(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_limits(**{**NONE, **settings})
