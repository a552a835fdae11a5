"""The Python API for reading a run: `selfplay.open_run`. Tables are lazy and are read as Arrow, pandas or `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from selfplay.inspect.documents.pair import pair_document
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.documents.status import status_document
from selfplay.inspect.query.sql import rounds_table, sql_table
from selfplay.inspect.query.tables import TABLES, batches_of, rounds_with, scan
from selfplay.inspect.query.where import parse_where, unknown_column
from selfplay.inspect.reading import open_store
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force


@dataclass(frozen=True, slots=True)
class RunTable:
    """A table of a run over its rounds. `of_rounds`, `where`, `select` and `head` return a narrower one and read nothing;
    `to_arrow`, `to_pandas`, `to_datasets` and `batches` read.

    Example: `run.pairs.of_rounds(2).where("alignment_potential > 1 and not kept").select("pair_id", "rank").to_pandas()`
    """

    name: str
    _scan: Callable[[Sequence[int] | None], ds.Dataset]
    _rounds: tuple[int, ...] | None = None
    _tests: tuple[str, ...] = ()
    _columns: tuple[str, ...] | None = None
    _limit: int | None = None

    def of_rounds(self, *numbers: int) -> RunTable:
        """Only the rows of these rounds. A missing round raises ConfigError when rows are read."""
        return replace(self, _rounds=numbers)

    def where(self, test: str) -> RunTable:
        """Only the rows for which an SQL condition is true, as in `pairs --where` (docs/data.md). Several are joined by AND."""
        return replace(self, _tests=(*self._tests, test))

    def select(self, *columns: str) -> RunTable:
        """Only these columns; others are not read."""
        return replace(self, _columns=columns)

    def head(self, num_rows: int) -> RunTable:
        """The first rows, in the order of rounds and of the table (pairs: by rank)."""
        return replace(self, _limit=num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema."""
        shape = self._scan(self._rounds).schema
        if self._columns is None:
            return shape
        unknown = [name for name in self._columns if name not in shape.names]
        if unknown:
            raise unknown_column(unknown[0], shape.names)
        return pa.schema([shape.field(name) for name in self._columns])

    def __len__(self) -> int:
        """The number of rows, from the files' footers, or with a condition from the columns that it names."""
        if not self._tests:
            count = int(self._scan(self._rounds).count_rows())
            return count if self._limit is None else min(count, self._limit)
        return sum(batch.num_rows for batch in self.select().batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, some at a time, so that a table of any size fits."""
        source, names = self._scan(self._rounds), self.schema.names
        tests = [parse_where(text, source.schema) for text in self._tests]
        needed = list(dict.fromkeys([*names, *(name for test in tests for name in test.columns)]))
        left = self._limit
        for batch in batches_of(source, needed or [source.schema.names[0]]):
            if left == 0:
                return
            for test in tests:
                batch = batch.take(pa.array(test.rows(pa.Table.from_batches([batch]))))
            batch = batch.slice(0, left)
            left = None if left is None else left - batch.num_rows
            if batch.num_rows:
                yield batch.select(names) if names else batch

    def to_arrow(self) -> pa.Table:
        """All rows as an Arrow table, in memory."""
        return pa.Table.from_batches(list(self.batches()), self.schema)

    def to_pandas(self) -> Any:
        """All rows as a pandas frame, in memory."""
        return self.to_arrow().to_pandas()

    def to_datasets(self, *, streaming: bool = False) -> Any:
        """All rows as a `datasets.Dataset`, or with `streaming` as an `IterableDataset` that reads while it is iterated."""
        import datasets

        if not streaming:
            return datasets.Dataset(self.to_arrow())
        features = datasets.Features.from_arrow_schema(self.schema)
        return datasets.IterableDataset.from_generator(_rows, features=features, gen_kwargs={"table": self})

    def __repr__(self) -> str:
        rounds = "all rounds" if self._rounds is None else f"rounds {', '.join(map(str, self._rounds))}"
        return f"<{self.name} of {rounds}{''.join(f', where {test}' for test in self._tests)}>"


def _rows(table: RunTable) -> Iterator[dict[str, Any]]:
    for batch in table.batches():
        yield from batch.to_pylist()


@dataclass(frozen=True, slots=True)
class Run:
    """A run, for reading only. See `selfplay.open_run`."""

    store: Store

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.store.layout.root

    @property
    def config(self) -> dict[str, Any]:
        """The settings of its newest attempt, defaults filled in."""
        return config_in_force(self.store)

    @property
    def round_numbers(self) -> list[int]:
        """Rounds with at least one committed stage; 0 is the starting policy."""
        return self.store.rounds()

    @property
    def rounds(self) -> RunTable:
        """A row for each round: counts, rewards, margins, gold, win-rates, lengths, tokens a second, time by stage."""
        return RunTable("rounds", lambda numbers: ds.dataset(_of_rounds(rounds_table(self.store), numbers)))

    @property
    def prompts(self) -> RunTable:
        """The prompts of each round, as messages and token ids; those of round 0 are the held-out ones."""
        return self._table("prompts")

    @property
    def responses(self) -> RunTable:
        """Every response that was sampled for training, with text and token ids."""
        return self._table("responses")

    @property
    def rewards(self) -> RunTable:
        """The reward of every response, or why it has none; the gold reward beside it."""
        return self._table("rewards")

    @property
    def unused(self) -> RunTable:
        """The responses that are in no pair, each with its reason."""
        return self._table("unused")

    @property
    def logprobs(self) -> RunTable:
        """Log-probs of the paired responses under policy and reference."""
        return self._table("logprobs")

    @property
    def pairs(self) -> RunTable:
        """The pairs with texts, margins, rank, and whether they were kept or why not."""
        return self._table("pairs")

    @property
    def evaluation(self) -> RunTable:
        """The held-out responses of the policy after each round, with reward and gold reward."""
        return self._table("evaluation")

    def _table(self, name: str) -> RunTable:
        def scanned(numbers: Sequence[int] | None) -> ds.Dataset:
            return scan(self.store, name, rounds_with(self.store, name) if numbers is None else numbers)

        return RunTable(name, scanned)

    def sql(self, query: str) -> pa.Table:
        """The result of one SELECT over all tables, as `selfplay sql` runs it. Each table has a column `round`.

        Example: `run.sql("select round, avg(explicit_margin) from pairs where kept group by round").to_pandas()`
        """
        return sql_table(self.store, query)

    def status(self) -> dict[str, Any]:
        """What `selfplay status --json` prints."""
        return status_document(self.path)

    def show(self, round_number: int, by: str | None = None) -> dict[str, Any]:
        """What `selfplay show --json` prints of a round: warnings, funnel, distributions, selection, training, evaluation."""
        return show_document(self.store, round_number, by)

    def pair(self, pair_id: str) -> dict[str, Any]:
        """What `selfplay pair --json` prints: a pair, its prompt, and all responses of that prompt."""
        return pair_document(self.store, pair_id)

    def __repr__(self) -> str:
        tables = ", ".join(["rounds", *TABLES])
        return f"<run {self.path}, rounds {', '.join(map(str, self.round_numbers)) or 'none yet'}; tables: {tables}>"


def _of_rounds(table: pa.Table, numbers: Sequence[int] | None) -> pa.Table:
    return table if numbers is None else table.filter(ds.field("round").isin(list(numbers)))


def open_run(path: str | Path) -> Run:
    """Open the run in a folder for reading: its rounds, pairs, responses and the other tables of docs/data.md.

        run = selfplay.open_run("runs/quickstart")
        run.rounds.to_pandas()
        run.pairs.of_rounds(2).where("alignment_potential > 1 and not kept").select("pair_id", "rank").to_pandas()
        run.responses.to_datasets(streaming=True)

    Tables are lazy: files are opened when rows are read, and only the columns that are needed are read. A run can be opened
    while it is running; the tables hold what is committed. Raises ConfigError where there is no run, CorruptionError
    where a file differs from what was committed (sizes, rows and checksums of pages; `selfplay verify --deep` checks every
    byte).
    """
    return Run(open_store(Path(path)))
