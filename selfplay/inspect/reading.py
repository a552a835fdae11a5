"""Opening a run for reading, and the few facts that every inspection command asks for. Nothing here writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError, CorruptionError
from selfplay.core.json_text import parse_json
from selfplay.store.layout import RECORD, SELECT, is_run
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection
from selfplay.store.symlinks import forbid_symlinks

SCHEMA_VERSION = 1
"""Of the JSON documents that inspection commands print. Keys are added under the same number, never renamed or
removed."""


def run_root(place: Path) -> Path:
    """Where the run directory is: the folder itself, or the record of a selection in it. Raises CorruptionError for a record that
    is a symbolic link."""
    forbid_symlinks(place / RECORD, place)
    return place / RECORD if is_run(place / RECORD) else place


def open_store(place: Path) -> Store:
    """The store in a folder, for reading. Raises ConfigError where there is no run, CorruptionError."""
    return Store.open(run_root(place))


def require_round(store: Store, round_number: int, stage: str | None = None) -> None:
    """Raise ConfigError, naming what there is, unless the round (and the stage of it) has something committed."""
    present = [number for number in store.rounds() if stage is None or store.is_committed(number, stage)]
    if round_number in present:
        return
    what = f"round {round_number}" if stage is None else f"stage {stage} of round {round_number}"
    if stage is not None and round_number == 0:
        raise ConfigError(
            f"round 0 has no {stage}: it is the starting policy, which is only evaluated",
            f"Rounds with one: {_list(present)}.",
        )
    raise ConfigError(
        f"{what} is not committed in {store.layout.root}",
        f"Available: {_list(present)}. `{shell_command('status', store.layout.root)}` shows how far the run is.",
    )


def settings_for_others(store: Store) -> dict[str, Any]:
    """The settings that the results depend on, without what names the machine (see `neutral_settings`): of a run those in
    force, of a selection from a dataset those of `selfplay select`."""
    # the schema of the settings takes long to import, and `status` and `rounds` do not need it
    from selfplay.config.anonymize import neutral, neutral_place, neutral_settings
    from selfplay.config.load import validate

    if not is_selection(store):
        return neutral_settings(validate(config_in_force(store), "the run"))
    settings = dict(store.config_json(SELECT, dict))
    for name in ("out", "cluster"):
        settings.pop(name, None)
    places = ("dataset", "policy", "reference", "reward_model", "embedding_model", "reward_function", "metric")
    return {
        name: neutral_place(value) if name in places else neutral(value)
        for name, value in settings.items()
        if value is not None and value is not False and value != {}
    }


def columns_of(columns_json: str | None) -> dict[str, Any]:
    """The columns of a row's source, from its `columns_json`; none where that is null. Raises CorruptionError."""
    try:
        return dict(parse_json(columns_json)) if columns_json else {}
    except (ValueError, TypeError) as error:
        raise CorruptionError(
            f"a columns_json of the run is damaged ({error})", "Restore the run from a backup."
        ) from None


def _list(numbers: list[int]) -> str:
    return ", ".join(f"round {number}" for number in numbers) or "none yet"


def finite(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinity become null, in lists and dicts too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def relative(store: Store, path: Path) -> str:
    """A path inside the run, relative to its folder."""
    return path.relative_to(store.layout.root).as_posix()
