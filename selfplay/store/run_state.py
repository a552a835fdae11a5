"""Where a run stands and which settings are in force, read from its commits and attempts."""

from __future__ import annotations

from typing import Any

from selfplay.core.errors import CorruptionError
from selfplay.core.stages import stages_of
from selfplay.store.run import Store

INHERITED = "inherited.json"


# a run that was begun before there was such a setting keeps what it has
BEFORE_STORAGE = {"storage": {"keep_policies": "all", "keep_trainer_checkpoints": 2}}


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
