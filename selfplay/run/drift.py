"""What a resume may change: settings and contents are compared with those that the run was started with."""

from __future__ import annotations

from collections.abc import Mapping

from selfplay.config.diff import changes
from selfplay.config.schema import Config
from selfplay.core.errors import DriftError
from selfplay.run.fork_rules import changed_pins, offer
from selfplay.store.run import Store


def check_drift(
    store: Store, before: Config, after: Config, pins: Mapping[str, str], found_pins: Mapping[str, str]
) -> list[str]:
    """What a resume changes, as lines for people. `pins` are the recorded digests, `found_pins` those of the content now. Raises
    DriftError with a diff for a change of identity."""
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
