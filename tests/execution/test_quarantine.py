"""Items that kill their workers, in any places of shards: what is survived depends on their number alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from selfplay.core.errors import BackendError
from selfplay.core.protocols import ScoreItem
from selfplay.execution.progress import Reporter
from selfplay.execution.quarantine import (
    QUARANTINED,
    QuarantinePolicy,
    ShardResult,
    TooManyPoisonItems,
    run_with_quarantine,
)
from selfplay.execution.sharding import Shards, cut, quarantined, run_shards
from selfplay.execution.signals import StopFlag
from selfplay.store.layout import Layout
from selfplay.store.writer import StageInputs, StageWriter
from tests.helpers.fakes import FakePool, FakeScorer

# 40 responses: five to each of eight prompts
ITEMS = [ScoreItem(f"r{number:02}", [], "x" * number, unit=f"p{number // 5}") for number in range(40)]
WHOLE = FakeScorer().score(ITEMS)
PLACES = {
    "none": [],
    "one": [7],
    "the first and the last": [0, 39],
    "all of a prompt": [10, 11, 12, 13, 14],
    "three of a shard": [16, 22, 29],
    "the first of each shard": [0, 8, 16, 24, 32],
    "a whole shard": list(range(8)),
    "eight that are scattered": [1, 3, 9, 14, 20, 26, 33, 38],
}


def no_reward(item: ScoreItem, reason: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"response_id": item.response_id, "reward": None, "drop_reason": reason}], schema=WHOLE.schema
    )


def policy(max_items: int = 8, *, batched: bool = False) -> QuarantinePolicy[ScoreItem]:
    unit: Callable[[ScoreItem], str] | None = (lambda item: item.unit) if batched else None
    return QuarantinePolicy(lambda item: item.response_id, no_reward, max_items, unit)


def score(
    pool: FakePool, shard_size: int, quarantine: QuarantinePolicy[ScoreItem] | None, **options: object
) -> dict[int, ShardResult]:
    shards: list[Sequence[ScoreItem]] = cut(ITEMS, shard_size)
    return dict(
        run_with_quarantine(
            pool, "score", enumerate(shards), lambda shard: (list(shard),), quarantine, lambda line: None, "score",
            **options,  # type: ignore[arg-type]
        )
    )  # fmt: skip


def rows(found: dict[int, ShardResult]) -> list[dict[str, object]]:
    return [row for index in sorted(found) for row in found[index].table.to_pylist()]


def expected(lost: set[str]) -> list[dict[str, object]]:
    return [
        {**row, "reward": None, "drop_reason": QUARANTINED} if row["response_id"] in lost else row
        for row in WHOLE.to_pylist()
    ]


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("size", [1, 8, 40])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
def test_where_they_lie_does_not_matter(places: list[int], size: int, num_workers: int) -> None:
    lost = {ITEMS[place].response_id for place in places}
    found = score(FakePool(FakeScorer(), lost, num_workers=num_workers), size, policy())
    assert rows(found) == expected(lost)
    assert {name for result in found.values() for name, _ in result.quarantined} == lost
    if len(lost) > 1:
        with pytest.raises(
            TooManyPoisonItems, match=rf"{len(lost)} items .* cluster\.max_poison_items is {len(lost) - 1}"
        ):
            score(FakePool(FakeScorer(), lost, num_workers=num_workers), size, policy(len(lost) - 1))


@pytest.mark.parametrize("size", [5, 10, 40])
def test_a_batched_function_is_asked_for_whole_units_only(size: int) -> None:
    asked: list[list[str]] = []

    class Units(FakeScorer):
        def score(self, items: Sequence[ScoreItem]) -> pa.Table:
            asked.append([item.unit for item in items])
            return super().score(items)

    lost = {item.response_id for item in ITEMS if item.unit in ("p2", "p6")}
    found = score(FakePool(Units(), {"r11", "r33"}), size, policy(10, batched=True))
    assert rows(found) == expected(lost)
    assert all(units.count(unit) == 5 for units in asked for unit in units)


def test_a_machine_on_which_nothing_works_stops_after_few_workers() -> None:
    pool = FakePool(FakeScorer(), {item.response_id for item in ITEMS})
    with pytest.raises(TooManyPoisonItems, match="9 items have killed"):
        score(pool, 8, policy())
    # two whole shards twice, their halves once, nine items twice
    assert pool.num_crashes == 2 * 2 + 6 + 2 + 2 * 9


def test_without_rows_for_it_the_first_item_ends_the_stage() -> None:
    pool = FakePool(FakeScorer(), {"r17", "r30"})
    with pytest.raises(BackendError, match=r"r17 killed its worker 2 times .*, and the stage needs its result"):
        score(pool, 8, QuarantinePolicy(lambda item: item.response_id))
    assert pool.num_crashes == 2 + 1 + 1 + 2
    with pytest.raises(BackendError, match="shard 2, items 1 to 1 killed its worker"):
        score(FakePool(FakeScorer(), {"r17"}), 8, None)


def test_what_was_found_survives_a_resume(tmp_path: Path) -> None:
    under_way = SimpleNamespace(reporter=Reporter(quiet=True), stop=StopFlag())
    inputs = StageInputs("fingerprint", {})

    def attempt(pool: FakePool, max_items: int) -> StageWriter:
        writer = StageWriter(Layout(tmp_path), 1, "score", inputs)
        run_shards(
            under_way, writer, pool, "score", Shards.of(cut(ITEMS, 20)), lambda shard: (list(shard),), lambda _, table: table,
            title="score", unit="responses", quarantine=policy(max_items),
        )  # fmt: skip
        return writer

    lost = {"r03", "r04", "r11", "r12", "r25"}
    with pytest.raises(TooManyPoisonItems, match="3 items"):
        attempt(FakePool(FakeScorer(), lost), 2)
    with pytest.raises(TooManyPoisonItems, match="4 items"):
        attempt(pool := FakePool(FakeScorer(), lost), 3)
    # the three that were found are asked for alone, one worker each; the fourth is searched for
    assert pool.num_crashes <= 3 + 1 + 4 + 2
    writer = attempt(FakePool(FakeScorer(), lost), 5)
    assert quarantined(writer) == {} and quarantined(writer, "") == dict.fromkeys(sorted(lost), QUARANTINED)
    assert [row for index in (0, 1) for row in writer.read_shard(index).to_pylist()] == expected(lost)


def test_a_cause_that_is_gone_gives_the_items_their_rows(tmp_path: Path) -> None:
    under_way = SimpleNamespace(reporter=Reporter(quiet=True), stop=StopFlag())

    def attempt(poison: set[str]) -> StageWriter:
        writer = StageWriter(Layout(tmp_path), 1, "score", StageInputs("fingerprint", {}))
        run_shards(
            under_way, writer, FakePool(FakeScorer(), poison), "score", Shards.of(cut(ITEMS, 20)),
            lambda shard: (list(shard),), lambda _, table: table, title="score", unit="responses", quarantine=policy(1),
        )  # fmt: skip
        return writer

    with pytest.raises(TooManyPoisonItems):
        attempt({"r03", "r04"})
    writer = attempt({"r04"})
    assert quarantined(writer, "") == {"r04": QUARANTINED}
    assert [row for index in (0, 1) for row in writer.read_shard(index).to_pylist()] == expected({"r04"})


def test_the_longest_items_of_a_shard_go_first_and_the_rows_are_the_same() -> None:
    pool = FakePool(backend := FakeScorer())
    found = score(pool, 20, policy(), size=3, duration=lambda item: -ITEMS.index(item) % 7)
    assert rows(found) == expected(set())
    asked = [backend.scored[start : start + 3] for start in range(0, 18, 3)]
    durations = [max(-int(name[1:]) % 7 for name in names) for names in asked]
    assert durations == sorted(durations, reverse=True) and durations[0] == 6
    assert {*backend.scored[:20]} == {item.response_id for item in ITEMS[:20]}
