"""Several datasets as one: their rows one source after the other, with the name of each row's source as a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import OfflineDataset
from selfplay.dataset_selection.settings import SOURCE
from selfplay.inputs.rows.bad_rows import BadRows
from selfplay.store.durable import canonical_json, sha256_bytes

# What a source may lack: its rows have nothing there.
_OPTIONAL = {"group": None, "columns_json": "{}", "drop_reason": None}
_IDS = ("pair_id", "response_id")


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Facts about one source."""

    name: str
    digest: str
    num_rows: int
    num_bad: int
    recognised: Mapping[str, str]


def joined(
    datasets: Mapping[str, OfflineDataset], *, groups_are_sources: bool
) -> tuple[OfflineDataset, list[SourceFacts]]:
    """One dataset of several, and what was read of each. All hold pairs with texts, or pairs without, or responses.

    Ids of pairs and responses are `SOURCE/ID`; those of prompts too where a source has its own or where pairs are built, so that
    pairs are of responses of one source. Numbers that not all sources have are left out, with a note. `groups_are_sources`: the
    group of a row is its source. Raises DataError for sources of different kinds.
    """
    kinds = {name: _kind(dataset) for name, dataset in datasets.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} holds {kind}" for name, kind in kinds.items())
        raise DataError(
            f"the sources have different shapes: {said}", "Select from each of them in a command of its own."
        )
    own_ids = any("prompt_id" in dataset.recognised for dataset in datasets.values())
    notes = [f"{name}: {note}" for name, dataset in datasets.items() for note in dataset.notes]
    tables: dict[str, pa.Table | None] = {}
    for part in ("pairs", "prompts", "responses"):
        found = {name: getattr(dataset, part) for name, dataset in _columns_beside_responses(datasets).items()}
        present = {name: table for name, table in found.items() if table is not None}
        with_ids = own_ids or part != "pairs"
        named = [_named(name, table, with_ids, groups_are_sources) for name, table in present.items()]
        tables[part] = _concatenated(dict(zip(present, named, strict=True)), notes) if named else None
    facts = [
        SourceFacts(name, one.digest, one.num_rows, one.bad_rows.count, one.recognised)
        for name, one in datasets.items()
    ]
    first = next(iter(datasets.values()))
    recognised = first.recognised.items()
    whole = OfflineDataset(
        kind=first.kind,
        pairs=tables["pairs"],
        prompts=tables["prompts"],
        responses=tables["responses"],
        bad_rows=_bad_rows(datasets),
        recognised={
            ours: theirs
            for ours, theirs in recognised
            if all(dataset.recognised.get(ours) == theirs for dataset in datasets.values())
        },
        num_rows=sum(dataset.num_rows for dataset in datasets.values()),
        digest=sha256_bytes(canonical_json([[name, dataset.digest] for name, dataset in datasets.items()])),
        notes=notes,
    )
    return whole, facts


def parts_of_sources(table: pa.Table) -> list[pa.Table]:
    """The rows of each source, which lie together; the whole table where there is one source."""
    if SOURCE not in table.column_names:
        return [table]
    counts = table[SOURCE].value_counts().to_pylist()
    first = {item["values"]: pc.index(table[SOURCE], item["values"]).as_py() for item in counts}
    return [table.slice(first[item["values"]], item["counts"]) for item in counts]


def _kind(dataset: OfflineDataset) -> str:
    if dataset.pairs is None:
        return "several responses a prompt"
    return "pairs with texts" if "chosen" in dataset.pairs.column_names else "pairs without texts"


def _columns_beside_responses(datasets: Mapping[str, OfflineDataset]) -> dict[str, OfflineDataset]:
    """The datasets with their groups and other columns beside the responses, where one has them there (one row a response)."""
    tables = [dataset.responses for dataset in datasets.values()]
    if not any(table is not None and not {"group", "columns_json"}.isdisjoint(table.column_names) for table in tables):
        return dict(datasets)
    found = {}
    for name, dataset in datasets.items():
        prompts, responses = dataset.prompts, dataset.responses
        assert prompts is not None and responses is not None
        row_R = pc.index_in(responses["prompt_id"], value_set=prompts["prompt_id"].combine_chunks())
        for column in ("group", "columns_json"):
            if column in prompts.column_names:
                responses = responses.append_column(column, prompts[column].take(row_R))
                prompts = prompts.drop_columns([column])
        found[name] = replace(dataset, prompts=prompts, responses=responses)
    return found


def _named(name: str, table: pa.Table, with_ids: bool, groups_are_sources: bool) -> pa.Table:
    """A table of one source with its name, and with ids that no other source has."""
    for column in (*_IDS, *(("prompt_id",) if with_ids else ())):
        if column in table.column_names:
            ids = pc.binary_join_element_wise(name, table[column], "/")
            table = table.set_column(table.column_names.index(column), column, ids)
    names = pa.repeat(pa.scalar(name), table.num_rows)
    if groups_are_sources:
        table = table.drop_columns(["group"]) if "group" in table.column_names else table
        table = table if "response_id" in table.column_names else table.append_column("group", names)
    return table.append_column(SOURCE, names)


def _concatenated(tables: Mapping[str, pa.Table], notes: list[str]) -> pa.Table:
    lacking = {
        column: [name for name, table in tables.items() if column not in table.column_names]
        for column in dict.fromkeys(column for table in tables.values() for column in table.column_names)
    }
    made = []
    for table in tables.values():
        for column, without in lacking.items():
            if without and column in _OPTIONAL and column not in table.column_names:
                values = pa.repeat(pa.scalar(_OPTIONAL[column], pa.string()), table.num_rows)
                table = table.append_column(column, values)
        made.append(table)
    left_out = {column: without for column, without in lacking.items() if without and column not in _OPTIONAL}
    for column, without in left_out.items():
        notes.append(f"{column} is not used: {', '.join(without)} has no such column")
    names = [name for name in made[0].column_names if name not in left_out]
    _check_embeddings(tables, names)
    return pa.concat_tables([table.select(names) for table in made], promote_options="permissive")


def _check_embeddings(tables: Mapping[str, pa.Table], names: list[str]) -> None:
    if "embedding" in names and len({table.schema.field("embedding").type for table in tables.values()}) > 1:
        raise DataError(
            "the embeddings of the sources differ in length",
            "Leave them out with --columns embedding= to have them computed.",
        )


def _bad_rows(datasets: Mapping[str, OfflineDataset]) -> BadRows:
    counts: Counter[str] = Counter()
    for dataset in datasets.values():
        counts.update(dataset.bad_rows.counts)
    examples = [
        replace(row, file=f"{name}: {row.file}")
        for name, dataset in datasets.items()
        for row in dataset.bad_rows.examples
    ]
    return BadRows(dict(sorted(counts.items())), tuple(examples))
