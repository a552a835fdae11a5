"""The inputs of a comparison's runs: found and pinned, then resolved, once for all runs that read the same ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from selfplay.compare.arms import Arm
from selfplay.compare.settings import Block, Comparison, World
from selfplay.config.load import validate
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError, DriftError, ModelError
from selfplay.inputs.pinning import Pinned, pin
from selfplay.inputs.resolve import Inputs, resolve
from selfplay.inputs.user_code.listing import Code
from selfplay.run.allowed_changes import changed_pins
from selfplay.run.driver import Prepared, prepare
from selfplay.run.library_checks import check_engine, check_pass_through
from selfplay.store.durable import canonical_json
from selfplay.store.layout import POOL, is_run
from selfplay.store.run import Store


class ArmInputs:
    """What the runs of a comparison in the folder `out` read. `force` starts them whatever the estimates say."""

    def __init__(self, out: Path, *, force: bool = False) -> None:
        self._out = out
        self._force = force
        self._pinned: dict[bytes, Pinned] = {}
        self._inputs: dict[bytes, Inputs] = {}
        self._keys: set[bytes] = set()

    def pin(self, config: Config, search_path: Path, revisions: dict[str, str] | None) -> Pinned:
        """What a configuration names, found and digested; nothing of it is run."""
        key = _key(config, search_path, revisions)
        if key not in self._pinned:
            self._pinned[key] = pin(config, search_path, revisions)
        return self._pinned[key]

    def resolve(self, config: Config, search_path: Path, revisions: dict[str, str] | None) -> Inputs:
        """The same, loaded and checked."""
        key = _key(config, search_path, revisions)
        if key not in self._inputs:
            pinned = self.pin(config, search_path, revisions)
            inputs = resolve(pinned.config, pinned.search_path, pinned=pinned)
            self._inputs[key] = check_engine(pinned.config, inputs)
        return self._inputs[key]

    def prepare(self, config: Config, search_path: Path, folder: Path, store: Store | None) -> Prepared:
        """As driver.preflight. `store` is the run in `folder`, if it has begun."""
        passed = canonical_json([dict(config.sampling.engine), config.training.loss, dict(config.training.trl)])
        if passed not in self._keys:
            check_pass_through(config)
            self._keys.add(passed)
        inputs = self.resolve(config, search_path, store.revisions() if store else None)
        return prepare(config, inputs, folder, search_path, store, force=self._force)

    def prepare_all(self, comparison: Comparison) -> None:
        """Resolve and check what every world's arms need before anything is started. Raises ConfigError, ModelError, ..."""
        for world, arm, config in _configs(comparison):
            with _of_arm(world, arm):
                self.prepare(config, Path(world.search_path), self._out, None)

    def code(self, comparison: Comparison) -> list[Code]:
        """All code that a comparison runs, each piece once; pools that are there are compared with what they were made with.
        Nothing of it is run. Raises ConfigError, ModelError, ... for what is not there, DriftError."""
        found: dict[str, Code] = {}
        for world, arm, config in _configs(comparison):
            with _of_arm(world, arm):
                pinned = self.pin(config, Path(world.search_path), None)
            found |= {piece.key: piece for piece in pinned.code}
        for block in comparison.blocks():
            base = self.pin(validate(comparison.base(block), block.world.path), Path(block.world.search_path), None)
            found |= {piece.key: piece for piece in base.code}
            if is_run(pool := block.folder(self._out) / POOL):
                check_pins(Store.open(pool), base.pins)
        return list(found.values())


def check_pins(pool: Store, pins: dict[str, str]) -> None:
    """Raises DriftError where a block's models, prompts or functions are no longer those that its pool was made with."""
    before = pool.config_json("pins.json", dict)
    if changed := changed_pins(before, pins):
        raise DriftError(
            f"{pool.layout.root} was made with other content of {', '.join(changed)}",
            "Restore it, or give another --out: a comparison has one start.",
        )


def _configs(comparison: Comparison) -> Iterator[tuple[World, Arm, Config]]:
    """The configuration of every arm in every world."""
    for world in comparison.worlds:
        for equal in comparison.equal:
            for arm in comparison.arms:
                yield world, arm, comparison.config(Block(world, 0), arm, equal)


@contextlib.contextmanager
def _of_arm(world: World, arm: Arm) -> Iterator[None]:
    """Name the arm in the message of an error."""
    try:
        yield
    except (ConfigError, ModelError) as error:
        error.message = f"{world.path}, arm {arm.name!r}: {error.message}"
        raise


def _key(config: Config, search_path: Path, revisions: dict[str, str] | None) -> bytes:
    """The settings that decide what is found and checked: seed, rounds and numbers of training and selection do not."""
    document = config.model_dump(mode="json")
    for name in ("pairs", "cluster", "seed", "rounds"):
        document.pop(name)
    for name in ("weight", "keep", "keep_lowest", "keep_per_group", "min_per_group", "max_per_prompt"):
        document["selection"].pop(name)
    document["training"] = {
        name: document["training"][name] for name in ("max_length", "loss", "start", "reference", "lora")
    }
    return canonical_json([document, str(search_path), revisions or {}])
