"""Which settings a resume and a fork may change, and the command that forks where a resume is refused.

A fork shares the committed rounds 0 to N of a run and goes on from there with other settings. What it must not change is what the
shared rounds stand for in the rounds that follow: the starting policy, the held-out evaluation that every round is compared
with, and the order that the prompts' slices are cut from. Pairs, selection, training and sampling of later rounds are free.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfplay.config.diff import PASS_THROUGH, SECTIONS, Change, changes
from selfplay.config.schema import Config
from selfplay.core.commands import shell_command
from selfplay.core.errors import DriftError
from selfplay.core.stages import stages_of
from selfplay.store.run import Store

# what decides the held-out responses beside the section `evaluation`
_OF_HELD_OUT = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "engine",
)  # fmt: skip


def check_drift(
    store: Store, before: Config, after: Config, pins: Mapping[str, str], found_pins: Mapping[str, str]
) -> list[str]:
    """The changes of a resume, as human-readable lines. `pins` are the recorded digests, `found_pins` those of the content now.
    Raises DriftError with a diff for a change of identity."""
    found = changes(before, after)
    refused = [change for change in found if change.tag == "identity"]
    lines = [f"{change.name}: {change.before} -> {change.after}" for change in refused]
    lines += [
        f"the content of {name} has changed "
        f"(sha256 {pins.get(name, 'none')[:12]} -> {found_pins.get(name, 'none')[:12]})"
        for name in changed_pins(pins, found_pins)
    ]
    if lines:
        raise DriftError(
            f"{store.layout.root} was started with other settings:\n    " + "\n    ".join(lines),
            offer(store, found, before, after, pins, found_pins),
        )
    shrunk = [change for change in found if change.tag == "extendable" and change.after < max(store.rounds() or [0])]
    if shrunk:
        raise DriftError(
            f"rounds={after.rounds} is less than what is done (round {max(store.rounds())})",
            "Rounds can be added, not removed.",
        )
    return [f"{change.name}: {change.before} -> {change.after} ({change.tag})" for change in found]


def why_not(name: str, from_round: int, before: Config) -> str | None:
    """Why a setting (or the content that one names) cannot change in a fork; None where it can."""
    section = name.partition(".")[0]
    if section == "policy":
        return "the shared rounds started from this policy, its prompts written as they were then"
    if section == "seed":
        return "the order of the prompts and the held-out responses of round 0 come from it"
    if section == "evaluation":
        return "later rounds are compared with the held-out responses of round 0"
    if section == "prompts" and from_round > 0:
        return f"the prompts of rounds 1 to {from_round} are slices of one seeded order, which the next slices are cut from"
    if section == "reward" and before.evaluation is not None:
        return "it judged the held-out responses of round 0, which later rounds are compared with"
    if section == "reward" and before.reward.parts:
        return "its parts are normalised by what they gave in round 0"
    return None


def refusals(
    found: Iterable[Change], pins: Mapping[str, str], new_pins: Mapping[str, str], from_round: int, before: Config
) -> list[str]:
    """A line for each change that a fork from that round cannot make. A place may move where its content stays."""
    lines = [
        f"{change.name}: {change.before} -> {change.after}: {why}"
        for change in found
        if change.tag == "identity" and (why := why_not(change.name, from_round, before))
    ]
    return lines + [
        f"the content of {name}: {why}"
        for name in changed_pins(pins, new_pins)
        if (why := why_not(name, from_round, before))
    ]


def changed_pins(pins: Mapping[str, str], new_pins: Mapping[str, str]) -> list[str]:
    """Names whose content differs."""
    return [name for name in sorted({*pins, *new_pins}) if pins.get(name) != new_pins.get(name)]


def held_out_notes(found: Iterable[Change], before: Config) -> list[str]:
    """Notes about a fork that samples differently: the held-out prompts are answered with these settings too."""
    if before.evaluation is None:
        return []
    names = [*_OF_HELD_OUT, *(["max_tokens"] if before.evaluation.max_tokens is None else [])]
    changed = [
        change.name
        for change in found
        if change.tag == "identity" and change.name.startswith(tuple(f"sampling.{name}" for name in names))
    ]
    if not changed:
        return []
    return [
        f"{', '.join(changed)}: the held-out prompts are answered with it too, so numbers of later rounds are not comparable "
        "with those of the shared ones"
    ]


def last_whole_round(store: Store) -> int | None:
    """The newest round with all its stages committed, those before it too; None where round 0 is not whole."""
    number = 0
    while all(store.is_committed(number, stage) for stage in stages_of(number)):
        number += 1
    return number - 1 if number else None


def offer(
    store: Store,
    found: Sequence[Change],
    before: Config,
    after: Config,
    pins: Mapping[str, str],
    new_pins: Mapping[str, str],
) -> str:
    """The hint of a refused resume: the command that forks with the settings asked for, or why there is none."""
    last = last_whole_round(store)
    back = "Resume with the settings that it was started with"
    if last is None:
        return f"{back}, or start another run with the new ones: no round is complete that a fork could share."
    for from_round in dict.fromkeys((last, 0)):
        if refusals(found, pins, new_pins, from_round, before):
            continue
        settings = as_overrides(found, after)
        if after.rounds <= from_round:
            settings = [item for item in settings if not item.startswith("rounds=")] + [f"rounds={from_round + 1}"]
        command = shell_command("fork", store.layout.root, "--from-round", from_round, *settings)
        shared = "round 0" if from_round == 0 else f"rounds 0 to {from_round}"
        return f"{back}, or fork it: a new run that shares {shared} and continues with the new ones:\n     {command}"
    return f"{back}, or start another run with the new ones: a fork cannot change " + "; ".join(
        refusals(found, pins, new_pins, 0, before)
    )


def as_overrides(found: Sequence[Change], after: Config) -> list[str]:
    """Changes as `key=value` arguments that lead from the old configuration to `after`."""
    gone = tuple(f"{change.name}." for change in found if change.name in SECTIONS and not change.after)
    settings: dict[str, Any] = {}
    for change in found:
        prefix = next((name for name in PASS_THROUGH if change.name.startswith(f"{name}.")), None)
        if change.name in SECTIONS:
            if not change.after:
                settings[change.name] = None
        elif prefix is not None and change.after is None:  # a key that is gone: only the whole can say so
            section, key = prefix.split(".")
            settings[prefix] = dict(getattr(getattr(after, section), key))
        elif not change.name.startswith(gone):
            settings.setdefault(change.name, change.after)
    whole = tuple(f"{name}." for name in settings if name in PASS_THROUGH)
    return [f"{name}={json.dumps(value)}" for name, value in settings.items() if not name.startswith(whole)]
