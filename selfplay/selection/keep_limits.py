"""Which settings of the cut fit together. No arrays here: the configuration of a run and the settings of `select` read it."""

from __future__ import annotations

from collections.abc import Mapping


def check_limits(
    *,
    keep: float,
    keep_lowest: bool,
    keep_per_group: float | Mapping[str, float] | None,
    min_per_group: int | None,
    max_per_prompt: int | None,
    has_groups: bool,
) -> None:
    """ValueError for a quota that is no quota, and for settings that do nothing together. `keep`: a fraction (float) or a number
    of pairs (int); quotas are the same, for each group. `has_groups`: the pairs have groups that quotas can be about."""
    for name, value in (("keep_per_group", keep_per_group), ("min_per_group", min_per_group)):
        if value is not None and not has_groups:
            raise ValueError(f"`{name}` needs `group_column`")
    quotas = keep_per_group if isinstance(keep_per_group, Mapping) else {"": keep_per_group}
    for group, quota in quotas.items():
        if quota is None or (group and quota == 0 and not isinstance(quota, bool)):
            continue
        if isinstance(quota, bool) or not (0 < quota <= 1 if isinstance(quota, float) else quota >= 1):
            said = f" of {group!r}" if group else ""
            raise ValueError(
                f"`keep_per_group`{said} is {quota!r}: give a fraction above 0 and up to 1.0, or a whole number of pairs"
            )
        if min_per_group is not None and isinstance(quota, int) and quota < min_per_group:
            raise ValueError(f"`keep_per_group` is {quota}, less than `min_per_group`: {min_per_group}")
    keeps_all = isinstance(keep, float) and keep == 1.0 and keep_per_group is None
    if min_per_group is not None and keeps_all:
        raise ValueError("`min_per_group` does nothing where every ranked pair is kept: give `keep` too")
    if keep_lowest and keeps_all and max_per_prompt is None:
        raise ValueError("`keep_lowest` does nothing where every ranked pair is kept: give `keep` too")
