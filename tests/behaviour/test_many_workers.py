"""Several workers that finish in any order give the tables of one worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay.core.outcomes import SampleOutcome
from selfplay.store.run import Store
from tests.helpers.configs import write_config_of
from tests.helpers.fakes import Fakes
from tests.run.test_driver import start

WriteConfig = Callable[..., Path]
SHARDS = {"shard_size": 3}
STAGES = ((0, "evaluate"), (1, "sample"), (1, "score"), (1, "logprobs"), (1, "select"), (1, "evaluate"))


def rows(store: Store) -> dict[tuple[int, str], list[dict[str, object]]]:
    return {(number, stage): store.table(number, stage).to_pylist() for number, stage in STAGES}


@pytest.fixture(scope="module")
def one(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The run of one worker."""
    folder = tmp_path_factory.mktemp("one")
    return start(write_config_of(tiny_world, folder, rounds=1, sampling=SHARDS), folder / "run", Fakes())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_results_changes_nothing(one: Store, write_config: WriteConfig, tmp_path: Path, seed: int) -> None:
    path = write_config(rounds=1, sampling=SHARDS)
    many = start(path, tmp_path / "many", Fakes(num_workers=4, seed=seed))
    assert rows(many) == rows(one)


def test_an_item_that_crashes_workers_is_found_among_several(
    one: Store, write_config: WriteConfig, tmp_path: Path
) -> None:
    path = write_config(rounds=1, sampling=SHARDS)
    poison = one.table(1, "prompts", columns=["prompt_id"])["prompt_id"][4].as_py()
    many = start(path, tmp_path / "many", Fakes(num_workers=4, seed=1, poison={poison}))
    assert list(many.outcome(1, SampleOutcome).quarantined) == [poison]
    assert rows(many)[1, "sample"] == [row for row in rows(one)[1, "sample"] if row["prompt_id"] != poison]
