"""The settings of a comparison: configurations, arms, seeds and rounds, stored in OUT/compare.json.

The file grows (more seeds, arms, configurations, rounds) and never changes otherwise: other settings for a name that is there
are refused with a diff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from selfplay.compare.arms import EQUAL, Arm, arm_config, check_names, equal_steps
from selfplay.config.diff import changes
from selfplay.config.load import load_config, validate
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError, CorruptionError, DriftError
from selfplay.core.json_text import parse_json
from selfplay.store.durable import pretty_json, read_file, write_file
from selfplay.store.layout import COMPARISON

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class World:
    """One configuration of a comparison. `name` is part of its blocks' names, `given` the file's text, `document` the settings
    with the command line's own; a block's seed and the rounds replace those in it."""

    name: str
    path: str
    search_path: str
    given: str
    overrides: tuple[str, ...]
    document: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Block:
    """A configuration and a seed: what arms are paired in."""

    world: World
    seed: int

    @property
    def name(self) -> str:
        """As in w0-s3."""
        return f"{self.world.name}-s{self.seed}"

    def folder(self, out: Path) -> Path:
        """Where the runs of the block are."""
        return out / "runs" / self.name

    def run_folder(self, out: Path, arm: Arm, equal: str) -> Path:
        """Where an arm's run is: OUT/runs/BLOCK/ARM, with @epochs behind it for the runs of equal epochs."""
        return self.folder(out) / (arm.folder + ("@epochs" if equal == "epochs" else ""))


@dataclass(frozen=True)
class Comparison:
    """A whole comparison. `control` is the arm that the others are held against; `steps` are the optimizer steps of a round
    under `--equal steps`, by world; `by` is a column of the prompts whose groups are counted among the kept pairs."""

    worlds: tuple[World, ...]
    arms: tuple[Arm, ...]
    num_seeds: int
    rounds: int
    equal: tuple[str, ...]
    control: str
    by: str | None

    def blocks(self) -> list[Block]:
        """Seed by seed, so that a comparison that is stopped early has all worlds."""
        return [Block(world, seed) for seed in range(self.num_seeds) for world in self.worlds]

    def config(self, block: Block, arm: Arm, equal: str) -> Config:
        """The configuration of one arm's run."""
        document = self.base(block)
        return arm_config(document, arm, equal, self.steps(block.world), Path(block.world.search_path))

    def base(self, block: Block) -> dict[str, Any]:
        """The block's configuration, before any arm."""
        return {**block.world.document, "seed": block.seed, "rounds": self.rounds}

    def steps(self, world: World) -> int:
        """Optimizer steps of a round under `--equal steps`."""
        return equal_steps(validate(world.document, world.name))

    def document(self) -> dict[str, Any]:
        """As written."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The settings of a command line; None: unchanged, or the default."""

    configs: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    num_seeds: int | None = None
    rounds: int | None = None
    equal: tuple[str, ...] = ()
    control: str | None = None
    by: str | None = None


def read_comparison(out: Path) -> Comparison | None:
    """The comparison in OUT; None where there is none. Raises CorruptionError."""
    path = out / COMPARISON
    if not path.is_file():
        return None
    try:
        document = parse_json(read_file(path))
        if document["schema_version"] > SCHEMA_VERSION:
            raise ConfigError(f"{path} was written by a newer selfplay", "Upgrade selfplay.")
        return TypeAdapter(Comparison).validate_python(document)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", "Restore it from a backup.") from None


def write_comparison(out: Path, comparison: Comparison) -> None:
    """Keep the comparison in OUT, durably."""
    write_file(out / COMPARISON, pretty_json(comparison.document()))


def make_comparison(wanted: Wanted, before: Comparison | None, out: Path) -> Comparison:
    """What a command line asks for, on top of what is in OUT. Raises ConfigError, and DriftError with a diff where it asks for
    other settings than what is there was made with."""
    if before is None and (not wanted.configs or not wanted.arms):
        raise ConfigError(
            f"there is no comparison in {out} yet: it needs a config and arms",
            "Write for example: selfplay compare config.yaml --metrics random,explicit_margin --seeds 5",
        )
    worlds = _worlds(wanted, before)
    arms = _arms(wanted.arms, before.arms if before else ())
    rounds = max(wanted.rounds or 0, before.rounds if before else 0) or validate(worlds[0].document, "").rounds
    equal = {*wanted.equal, *(before.equal if before else ())} or {"steps"}
    found = Comparison(
        worlds=worlds,
        arms=arms,
        num_seeds=max(wanted.num_seeds or 0, before.num_seeds if before else 0) or 1,
        rounds=rounds,
        equal=tuple(name for name in EQUAL if name in equal),
        control=wanted.control or (before.control if before else _default_control(arms)),
        by=wanted.by if wanted.by is not None else (before.by if before else None),
    )
    _check(found)
    return found


def _default_control(arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    return "random" if "random" in names else names[0]


def _arms(wanted: Sequence[Arm], before: Sequence[Arm]) -> tuple[Arm, ...]:
    known = {arm.name: arm for arm in before}
    for arm in wanted:
        there = known.get(arm.name)
        if there is not None and {*there.overrides} != {*arm.overrides}:
            raise DriftError(
                f"arm {arm.name!r} exists with other settings:\n    {' '.join(there.overrides)} -> "
                f"{' '.join(arm.overrides)}",
                "Give the new one another name.",
            )
    arms = (*before, *(arm for arm in wanted if arm.name not in known))
    check_names(arms)
    return arms


def _worlds(wanted: Wanted, before: Comparison | None) -> tuple[World, ...]:
    worlds = list(before.worlds) if before else []
    if not wanted.configs:
        if wanted.overrides:
            raise ConfigError("settings (key=value) need the config they belong to", "Name the config as well.")
        return tuple(worlds)
    for path in wanted.configs:
        config = load_config(path, wanted.overrides)
        document = config.model_dump(mode="json")
        given = path.read_text(encoding="utf-8")
        place = str(path.resolve())
        known = next((index for index, world in enumerate(worlds) if world.path == place), None)
        name = worlds[known].name if known is not None else _world_name(path, {world.name for world in worlds})
        world = World(name, place, str(path.resolve().parent), given, wanted.overrides, document)
        if known is None:
            worlds.append(world)
            continue
        _check_same(worlds[known], world)
        worlds[known] = world  # resources may be others
    return tuple(worlds)


def _world_name(path: Path, taken: set[str]) -> str:
    """The file's name, or its folder's where the file is called config; with a number where that is taken."""
    stem = path.resolve().parent.name if path.stem == "config" else path.stem
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}{number}"
    return name


def _check_same(before: World, after: World) -> None:
    """Raises DriftError when a configuration that is there has other settings now (resources, seed and rounds apart)."""
    found = [
        change
        for change in changes(validate(before.document, before.path), validate(after.document, after.path))
        if change.tag in ("identity", "content") and change.name != "seed"
    ]
    if found:
        lines = "\n    ".join(f"{change.name}: {change.before} -> {change.after}" for change in found)
        raise DriftError(
            f"{before.path} was compared with other settings:\n    {lines}",
            "Compare with the settings it was started with, or give another --out.",
        )


def _check(comparison: Comparison) -> None:
    if comparison.control not in {arm.name for arm in comparison.arms}:
        names = ", ".join(arm.name for arm in comparison.arms)
        raise ConfigError(f"--control {comparison.control!r} is not one of the arms", f"The arms are: {names}.")
    for world in comparison.worlds:
        config = validate(world.document, world.path)
        if config.evaluation is None:
            raise ConfigError(
                f"{world.path} has no evaluation, so arms could not be compared",
                "Add held-out prompts: evaluation: {source: FILE, num_prompts: 256, gold: FILE:FUNCTION} "
                "(gold: a judge that is never trained on).",
            )
        if "epochs" in comparison.equal and config.training.max_steps is not None:
            raise ConfigError(
                f"{world.path} sets training.max_steps, so the arms cannot have equal epochs",
                "Leave it out, or compare with --equal steps only.",
            )
        block = Block(world, 0)
        for arm in comparison.arms:
            for equal in comparison.equal:
                comparison.config(block, arm, equal)
