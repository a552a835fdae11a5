"""How an engine's slots decide what it is asked: small calls, many at a time, and the rows of whole shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.core.outcomes import SampleOutcome
from selfplay.core.pool import IN_FLIGHT
from selfplay.core.protocols import SampleRequest
from selfplay.run.stages.sampling import MAX_CALLS, expected_tokens, request_size, request_size_of
from tests.helpers.fakes import Fakes
from tests.run.test_driver import start

WriteConfig = Callable[..., Path]


@pytest.mark.parametrize("slots", [1, 4, 16, 256, 1024, 8192])
@pytest.mark.parametrize("num_responses", [1, 2, 8, 64])
def test_the_calls_that_an_engine_holds_have_several_times_the_responses_of_its_slots(
    slots: int, num_responses: int
) -> None:
    size, window = request_size(slots, num_responses)
    assert IN_FLIGHT <= window <= MAX_CALLS
    assert size * window * num_responses >= 5 * slots


def test_the_engine_with_the_fewest_slots_decides_and_an_engine_without_slots_gets_whole_shards() -> None:
    assert request_size_of([{"max_num_seqs": 256}, {"max_num_seqs": 16}], 4) == request_size(16, 4)
    assert request_size_of([{"max_num_seqs": None}], 4) == (None, IN_FLIGHT)


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("slots", [1, 3])
def test_small_calls_give_the_rows_of_whole_shards(
    write_config: WriteConfig, tmp_path: Path, slots: int, num_workers: int
) -> None:
    sampling = {"num_responses": 4, "max_tokens": 8, "shard_size": 7}
    config = write_config(rounds=1, sampling=sampling)
    whole = start(config, tmp_path / "whole", Fakes())
    poison = whole.table(1, "prompts", columns=["prompt_id"])["prompt_id"].to_pylist()[5]
    for name, given in (("calm", ()), ("crash", (poison,))):
        fakes = Fakes(poison=given, num_workers=num_workers, seed=slots)
        fakes.sampler.describe = lambda: {"engine": "fake", "max_num_seqs": slots}  # type: ignore[method-assign]
        store = start(config, tmp_path / f"{name}", fakes)
        for stage in ("sample", "score", "select", "evaluate"):
            if not given:
                assert store.table(1, stage).equals(whole.table(1, stage)), stage
        lost = [row["prompt_id"] for row in whole.table(1, "sample").to_pylist() if row["prompt_id"] in given]
        assert store.outcome(1, SampleOutcome).num_responses == whole.table(1, "sample").num_rows - len(lost)
        assert [*store.outcome(1, SampleOutcome).quarantined] == [*given]
        assert len(store.lazy_table(1, "sample").parts) == len(whole.lazy_table(1, "sample").parts)


def test_responses_are_expected_as_long_as_before_or_by_the_prompt() -> None:
    before = pa.table({"prompt_id": ["a", "b", "a"], "num_tokens": [5, 9, 7]})
    expected = expected_tokens(before)
    asked = [
        SampleRequest("a", [1], 0),
        SampleRequest("b", [1], 0),
        SampleRequest("c", [1], 0),
        SampleRequest("d", [1] * 9, 0),
    ]
    order = sorted(asked, key=expected, reverse=True)
    assert [request.prompt_id for request in order] == ["b", "a", "d", "c"]
    assert max(asked, key=expected_tokens(None)).prompt_id == "d"
