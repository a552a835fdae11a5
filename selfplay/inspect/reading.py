"""Opening a run for reading, and the few facts that every inspection command asks for. Nothing here writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from selfplay.errors import ConfigError, CorruptionError
from selfplay.store.layout import FIRST_ROUND_STAGES, STAGES
from selfplay.store.run import Store

SCHEMA_VERSION = 1
"""Of the JSON documents that inspection commands print. Keys are added under the same number, never renamed or
removed."""

INHERITED = "inherited.json"

# a run that was begun before there was such a setting keeps what it has
BEFORE_STORAGE = {"storage": {"keep_policies": "all", "keep_trainer_checkpoints": 2}}


def stages_of(round_number: int) -> tuple[str, ...]:
    """The stages of a round, in order."""
    return STAGES if round_number else FIRST_ROUND_STAGES


def config_in_force(store: Store) -> dict[str, Any]:
    """The configuration of the newest attempt; that of the start where no attempt has begun."""
    found = store.attempt_documents()
    if found:
        settings = found[-1].get("config")
        if not isinstance(settings, dict) or not isinstance(settings.get("rounds"), int):
            path = store.layout.attempt(found[-1]["attempt"]) / "attempt.json"
            raise CorruptionError(f"{path} holds no settings", "Restore it from a backup: they are those in force.")
        return BEFORE_STORAGE | settings
    return BEFORE_STORAGE | dict(store.config_json("resolved.json", dict))


def settings_by_round(store: Store) -> list[dict[str, Any]]:
    """For a fork, the settings that its shared rounds were made with: {"last": ROUND, "config": {...}} for the rounds up to each,
    ascending. Empty for any other run."""
    if not (store.layout.config / INHERITED).is_file():
        return []
    found: list[dict[str, Any]] = store.config_json(INHERITED, list)
    return found


def config_of_round(store: Store, round_number: int) -> dict[str, Any]:
    """The configuration that a round was made with: that of the other run for a round that a fork shares."""
    for item in settings_by_round(store):
        if round_number <= item["last"]:
            return BEFORE_STORAGE | dict(item["config"])
    return config_in_force(store)


def next_stage(store: Store, rounds: int) -> tuple[int, str] | None:
    """The first stage of the plan that is not committed; None when all are."""
    for number in range(rounds + 1):
        for stage in stages_of(number):
            if not store.is_committed(number, stage):
                return number, stage
    return None


def metrics_if_committed(store: Store, round_number: int, stage: str) -> dict[str, Any]:
    """The stage's metrics; empty where it is not committed."""
    return store.metrics(round_number, stage) if store.is_committed(round_number, stage) else {}


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
        f"There is: {_list(present)}. `selfplay status {store.layout.root}` says where the run stands.",
    )


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
    """A path inside the run as people read it."""
    return path.relative_to(store.layout.root).as_posix()
