"""The diagnostics of a round's selection, from its committed tables (`show`). No model and no metric of a user's is called."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import SelectionSummary, SelectOutcome
from selfplay.core.stages import CANDIDATES, READ
from selfplay.inspect.documents.distributions import floats
from selfplay.inspect.query.tables import column_names
from selfplay.inspect.reading import columns_of
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.diagnostics.records import Diagnostics
from selfplay.selection.groups import group_name
from selfplay.selection.reasons import DropReasons
from selfplay.selection.select import PairPool, Selection
from selfplay.store.layout import SELECT
from selfplay.store.run import Store
from selfplay.store.run_state import config_of_round, is_selection

_NUMBERS = (
    "reward_chosen", "reward_rejected", "num_tokens_chosen", "num_tokens_rejected", "policy_logp_chosen",
    "policy_logp_rejected", "reference_logp_chosen", "reference_logp_rejected",
)  # fmt: skip
_OUTCOME = ("explicit_margin", "implicit_margin", "alignment_potential", "metric_value", "rank", "kept", "drop_reason")
_IDS = ("pair_id", "prompt_id", "chosen_response_id", "rejected_response_id")


def selection_diagnostics(store: Store, round_number: int, by: str | None = None) -> Diagnostics:
    """Diagnostics of a round whose *select* is committed. Groups: `selection.group_column` where the run has one, else
    the source files where there are several; and the prompts' column `by`. Of a selection from a dataset, a pair's group
    is the one that it was ranked in, and its other columns are those of its chosen response: pairs may share a prompt.

    Raises ConfigError for a column `by` that no prompt has, CorruptionError.
    """
    table = store.table(round_number, "select", columns=[*_IDS, *_NUMBERS, *_OUTCOME])
    prompts = store.table(round_number, "prompts", columns=["prompt_id", "source_file", "columns_json"])
    prompt_P = _index(table["prompt_id"], prompts["prompt_id"])
    ranked_in = config_of_round(store, round_number)["selection"].get("group_column")
    recorded = _recorded_groups(store, round_number, table["pair_id"])
    wanted = [name for name in (ranked_in, by) if name is not None and name not in recorded]
    groups = recorded | _groups(*_documents(store, round_number, table, prompts, prompt_P), wanted)
    if "source_file" in wanted or (ranked_in is None and len(prompts["source_file"].unique()) > 1):
        of_files = Grouping.of(prompts["source_file"])
        groups.setdefault("source_file", Grouping(of_files.code_P[prompt_P], of_files.names))
    pool = PairPool(
        pair_id=table["pair_id"],
        columns=_columns(store, round_number, table),
        group_P=groups[ranked_in].code_P if ranked_in is not None else None,
        prompt_P=prompt_P,
    )
    selection = _selection(table, store.outcome(round_number, SelectOutcome).summary)
    prompt = Grouping(prompt_P, tuple(prompts["prompt_id"].to_pylist()))
    return diagnose(pool, selection, groups=groups, prompt=prompt)


def _selection(table: pa.Table, summary: SelectionSummary) -> Selection:
    rank_P = table["rank"].fill_null(0).to_numpy().astype(np.int64)
    return Selection(
        explicit_margin_P=_numbers(table["explicit_margin"]),
        implicit_margin_P=_numbers(table["implicit_margin"]),
        alignment_potential_P=_numbers(table["alignment_potential"]),
        metric_value_P=floats(table["metric_value"]),
        rank_P=rank_P,
        kept_P=table["kept"].to_numpy().astype(np.bool_),
        drop_reason_P=DropReasons.of(table["drop_reason"].to_pylist()),
        summary=summary,
    )


def _columns(store: Store, number: int, table: pa.Table) -> dict[str, NDArray[Any]]:
    """Number columns by name: those of the pairs table, those that the metric read, the prompts' rewards, gold rewards."""
    found: dict[str, NDArray[Any] | None] = {name: _numbers(table[name]) for name in _NUMBERS}
    statistics = ["prompt_reward_mean", "prompt_reward_std"]  # the same in every pair of a prompt
    candidates = store.table(number, "pair", CANDIDATES, columns=["chosen_response_id", *statistics])
    found |= _joined(candidates, table["chosen_response_id"])
    read = [name for name in column_names(store, number, "select", READ) if name not in ("pair_id", "group", *found)]
    if read:
        found |= _joined(store.table(number, "select", READ, columns=["pair_id", *read]), table["pair_id"])
    scores = store.table(number, "score", columns=["response_id", "gold_reward"])
    for side in ("chosen", "rejected"):
        found[f"gold_reward_{side}"] = _joined(scores, table[f"{side}_response_id"])["gold_reward"]
    return {name: values for name, values in found.items() if values is not None}


def _numbers(column: pa.ChunkedArray) -> NDArray[Any] | None:
    """float64 with NaN for null; None where every row is null."""
    return None if column.null_count == len(column) > 0 else floats(column)


def _joined(table: pa.Table, ids: pa.ChunkedArray) -> dict[str, NDArray[Any] | None]:
    """Number columns of the rows whose first column is each of `ids`."""
    rows = _index(ids, table.column(0))
    columns = {name: _numbers(table[name]) for name in table.column_names[1:]}
    return {name: None if values is None else values[rows] for name, values in columns.items()}


def _index(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """The row of each id among others, all of which are there in a run that verifies."""
    found = pc.index_in(ids, value_set=among.combine_chunks())
    assert not found.null_count, "an id of a later table is in the table that it comes from"
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _recorded_groups(store: Store, number: int, ids: pa.ChunkedArray) -> dict[str, Grouping]:
    """What a selection from a dataset recorded of the group of each pair, by the name of its column."""
    if not is_selection(store) or "group" not in column_names(store, number, "select", READ):
        return {}
    read = store.table(number, "select", READ, columns=["pair_id", "group"])
    settings = store.config_json(SELECT, dict)
    name = settings.get("group_column") or settings.get("columns", {}).get("group", "group")
    return {name: Grouping.of(read["group"].take(pa.array(_index(ids, read["pair_id"]))))}


def _documents(
    store: Store, number: int, table: pa.Table, prompts: pa.Table, prompt_P: NDArray[np.int64]
) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """The columns of the source as JSON documents, and the row of each pair's: those of its prompt; of a selection from a dataset
    those of its chosen response, where they are there."""
    if is_selection(store) and "columns_json" in column_names(store, number, "sample"):
        responses = store.table(number, "sample", columns=["response_id", "columns_json"])
        rows_P = _index(table["chosen_response_id"], responses["response_id"])
        return responses["columns_json"].take(pa.array(rows_P)), np.arange(len(rows_P))
    return prompts["columns_json"], prompt_P


def _groups(documents: pa.ChunkedArray, row_P: NDArray[np.int64], wanted: list[str]) -> dict[str, Grouping]:
    """The grouping of the pairs by each column; `source_file` may be among the wanted ones and no column."""
    if not wanted:
        return {}
    own = [columns_of(document) for document in documents.to_pylist()]
    columns = list(dict.fromkeys(column for row in own for column in row))
    found = {}
    for name in wanted:
        if name in columns:
            of_rows = Grouping.of([group_name(row, name) or None for row in own])
            found[name] = Grouping(of_rows.code_P[row_P], of_rows.names)
        elif name != "source_file":
            near = difflib.get_close_matches(name, [*columns, "source_file"], n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"the prompts of this round have no column {name!r}",
                f"{hint}They have: {', '.join([*columns, 'source_file'])}.",
            )
    return found
