"""What every computation of a selection shares: workers asked for when they are needed, kept shards, checked rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfplay.core.errors import CorruptionError
from selfplay.core.pool import Pool
from selfplay.dataset_selection.models import Models
from selfplay.dataset_selection.output.work_folder import WorkFolder
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import ShardContext, run_shards
from selfplay.selection.arrays import Ints
from selfplay.selection.reasons import DropReasons, is_kept
from selfplay.store.writer import StageWriter

Column = NDArray[Any]


class Pools(Protocol):
    """The workers, started when the first of them is asked for."""

    def get(self, role: str) -> Pool:
        """The pool of "scorer" or "logprobs"."""


@dataclass
class Filled:
    """What was computed for P pairs: columns by name (NaN where a pair was dropped before), and why pairs were dropped."""

    columns: dict[str, Column] = field(default_factory=dict)
    reasons: DropReasons | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Computing:
    """What every step is given."""

    settings: SelectSettings
    models: Models
    work: WorkFolder
    pools: Pools
    under_way: ShardContext

    def run(
        self,
        writer: StageWriter,
        role: str,
        method: str,
        shards: Sequence[Sequence[int]],
        arguments: Callable[[Sequence[int]], tuple[Any, ...]],
        finish: Callable[[int, Any], pa.Table],
        *,
        title: str,
        unit: str = "pairs",
        quarantine: QuarantinePolicy[int] | None = None,
    ) -> pa.Table:
        """The rows of all shards; workers are started only when a shard is not kept yet. `quarantine`: see stages/halving.py."""
        self._adopted(writer, title)
        if len(writer.shards()) < len(shards):
            run_shards(
                self.under_way, writer, self.pools.get(role), method, shards, arguments, finish,
                title=title, unit=unit, quarantine=quarantine,
            )  # fmt: skip
        return pa.concat_tables([writer.read_shard(index) for index in range(len(shards))])

    def _adopted(self, writer: StageWriter, title: str) -> None:
        if writer.adopted:
            self.under_way.reporter.say(f"{title}: {writer.adopted} shards of an earlier attempt are adopted")


def rows_of(table: pa.Table, rows: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Some columns of some rows as Python values, by row."""
    there = [name for name in names if name in table.column_names]
    part = table.select(there).take(pa.array(rows, pa.int64()))
    return dict(zip(rows, part.to_pylist(), strict=True))


def free_rows(filled: Filled) -> Ints:
    assert filled.reasons is not None
    return np.flatnonzero(is_kept(filled.reasons))


def floats(column: pa.ChunkedArray) -> Column:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def spread(values: Column, rows: Ints, num_rows: int) -> Column:
    """`values` at their rows, NaN elsewhere."""
    found = np.full(num_rows, np.nan)
    found[rows] = values
    return found


def check_rows(found: pa.ChunkedArray, wanted: Sequence[str], writer: StageWriter) -> None:
    """What was kept must be of the rows that are asked for now."""
    if found.to_pylist() != list(wanted):
        raise CorruptionError(
            f"the shards in {writer.folder} are of other rows than this dataset has",
            f"Remove {writer.folder} and give the same command again.",
        )
