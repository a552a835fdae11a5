"""What a worker answers is held against what it was asked, before anything of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import BackendError
from selfplay.core.protocols import LogprobItem, SampleRequest, SamplingSettings
from selfplay.core.stages import stage_named
from selfplay.execution.row_check import requested_rows
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.run.test_driver import is_complete, resume, start

WriteConfig = Callable[..., Path]


def fewer(table: pa.Table) -> pa.Table:
    return table.slice(1)


def swapped(table: pa.Table) -> pa.Table:
    return table.take(pa.array([1, 0, *range(2, table.num_rows)]))


def of_others(table: pa.Table) -> pa.Table:
    name = table.column_names[0]
    return table.set_column(0, name, pa.array(["stranger", *table[name].to_pylist()[1:]], pa.string()))


@pytest.mark.parametrize("wrong", [fewer, swapped, of_others])
@pytest.mark.parametrize(
    ("role", "method", "stage"),
    [("sampler", "sample", "sample"), ("scorer", "score", "score"), ("logprobs", "logprobs", "logprobs")],
)
def test_rows_of_others_are_not_kept(
    write_config: WriteConfig,
    tmp_path: Path,
    wrong: Callable[[pa.Table], pa.Table],
    role: str,
    method: str,
    stage: str,
) -> None:
    fakes, run = Fakes(gold=False), tmp_path / "run"
    backend = getattr(fakes, role)
    right, calls = getattr(backend, method), []

    def second_is_wrong(*args: Any) -> pa.Table:
        calls.append(args)
        return wrong(right(*args)) if len(calls) == 2 else right(*args)

    setattr(backend, method, second_is_wrong)
    said = {fewer: r"asked for (\d+) rows and returned", swapped: "same order", of_others: "stranger"}[wrong]
    with pytest.raises(BackendError, match=said) as refused:
        start(write_config(rounds=1, evaluation=None), run, fakes)
    assert f"round 1 {stage}: shard 1" in refused.value.message
    kept = sorted(path.name for path in (run / f".work/001-{stage}").glob("part-*"))
    assert kept == ["part-00000.parquet"]
    resume(run, Fakes(gold=False))
    assert is_complete(run, 1)
    assert Store.open(run).outcome(1, stage_named(stage).outcome).adopted_shards == 1


def test_what_is_asked_is_read_off_the_arguments() -> None:
    requests = [SampleRequest("p", [1], 7), SampleRequest("q", [1], 7, num_responses=1, first_index=3)]
    assert requested_rows((requests, SamplingSettings(2, 1.0, 8))) == [("p", 0), ("p", 1), ("q", 3)]
    items: Sequence[LogprobItem] = [LogprobItem("a", [1], [2])]
    assert requested_rows(("folder", "digest", items, [[5], [6]])) == ["a"]
    # all prompts of a shard are the second model's
    assert requested_rows(([], SamplingSettings(2, 1.0, 8))) is None
    assert requested_rows(([1, 2], 3, "how")) is None
