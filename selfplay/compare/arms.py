"""Arms of a comparison: a name and the settings it changes; and the configuration of each arm's run.

Two arms of a block differ in nothing but `pairs`, `selection` and `training`, so that they can share the start, its evaluation
and the sampled and scored pool of the first round.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.config.diff import changes
from selfplay.config.load import absolute_places, apply_override, validate
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError
from selfplay.store.layout import POOL

MAY_DIFFER = ("pairs.", "selection.", "training.")
# it decides which prompts are short enough to be asked
MAY_NOT_DIFFER = ("training.max_length",)
SOURCE = "selection.logprobs.source"
BUDGETS = ("training.epochs", "training.max_steps")
EQUAL = ("steps", "epochs")


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to choose and train. Example: Arm("potential w=2.5", ("selection.metric=alignment_potential",
    "selection.weight=2.5"))"""

    name: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"[^A-Za-z0-9.=_-]+", "-", self.name).strip("-.") or "arm"


def parse_arm(text: str) -> Arm:
    """`NAME: key=value key=value`, as in "sweet spot: pairs.build=sweet_spot selection.metric=explicit_margin"."""
    name, colon, rest = text.partition(":")
    try:
        overrides = shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"--arm {text!r} cannot be read ({error})", "Close the quotes.") from None
    if not colon or not name.strip() or not overrides or not all("=" in item for item in overrides):
        raise ConfigError(
            f"--arm {text!r} is not of the form NAME: key=value key=value",
            'Write for example --arm "potential w=2.5: selection.metric=alignment_potential selection.weight=2.5".',
        )
    return Arm(" ".join(name.split()), tuple(overrides))


def metric_arm(metric: str) -> Arm:
    """The arm of a metric by itself; a metric of the user's own (`file.py:function`) is named by its function."""
    overrides = [f"selection.metric={metric}"]
    if metric == "full":
        limits = ("group_column", "keep_per_group", "min_per_group", "max_per_prompt")
        overrides += [
            "selection.keep=1.0",
            "selection.keep_lowest=false",
            *(f"selection.{name}=null" for name in limits),
        ]
    return Arm(metric.rpartition(":")[2], tuple(overrides))


def parse_arms(metrics: Sequence[str], arms: Sequence[str]) -> list[Arm]:
    """The arms of a command line, in order. Raises ConfigError for names that are equal or give the same folder."""
    names = [name.strip() for text in metrics for name in text.split(",") if name.strip()]
    found = [*map(metric_arm, names), *map(parse_arm, arms)]
    check_names(found)
    return found


def check_names(arms: Sequence[Arm]) -> None:
    """Raises ConfigError unless every arm has a name and a folder of its own."""
    seen: dict[str, str] = {}
    for arm in arms:
        key = arm.folder.lower()
        if key == POOL or key.startswith(f"{POOL}-") or "@" in arm.name:
            raise ConfigError(f"an arm cannot be called {arm.name!r}", "That is what the shared runs are called.")
        if key in seen:
            same = f"{arm.name!r} is given twice" if seen[key] == arm.name else f"{arm.name!r} and {seen[key]!r}"
            raise ConfigError(f"arms need names of their own: {same}", "Give them other names with --arm NAME: ...")
        seen[key] = arm.name


def equal_steps(config: Config) -> int:
    """Optimizer steps of a round that `--equal steps` gives every arm: those that the configuration's own settings would take
    of a pool without ties or drops (`training.max_steps` where it is set)."""
    training, keep, per_round = config.training, config.selection.keep, config.prompts.per_round
    kept = min(per_round, keep) if isinstance(keep, int) else round(keep * per_round)
    return training.max_steps or math.ceil(kept / training.batch_size) * training.epochs


def arm_overrides(arm: Arm, equal: str, steps: int) -> list[str]:
    """The settings that make an arm's run of a block's configuration, budget included. Raises ConfigError where the arm sets
    what the comparison makes equal."""
    own = {override.partition("=")[0].strip() for override in arm.overrides}
    if budget := sorted(own & {*BUDGETS}):
        raise ConfigError(
            f"arm {arm.name!r} sets {', '.join(budget)}, which the comparison makes equal for all arms",
            "Set it for all of them, as key=value after the config.",
        )
    budget = ["training.epochs=1", f"training.max_steps={steps}"] if equal == "steps" else []
    return [*arm.overrides, *budget]


def arm_config(block: dict[str, Any], arm: Arm, equal: str, steps: int, search_path: Path) -> Config:
    """The configuration of an arm's run in a block. Raises ConfigError, also for what arms may not differ in."""
    before = validate(block, "the config")
    document = before.model_dump(mode="json")
    for override in arm_overrides(arm, equal, steps):
        apply_override(document, override)
    config = absolute_places(validate(document, f"arm {arm.name!r}"), search_path)
    for change in changes(before, config):
        if not change.name.startswith(MAY_DIFFER) or change.name in MAY_NOT_DIFFER:
            raise ConfigError(
                f"arm {arm.name!r} sets {change.name}; arms share the start and the sampled pool, so they may differ in "
                "pairs, selection and training only (and not in training.max_length)",
                "Set it for all arms, as key=value after the config, or compare another config with it.",
            )
        if change.name == SOURCE and before.selection.logprobs.source == "model":
            raise ConfigError(
                f"arm {arm.name!r} sets {SOURCE}, but the shared pool is sampled without the engine's log-probs",
                f"Set {SOURCE}=auto after the config, and {SOURCE}=model in the arms that want it.",
            )
    return config
