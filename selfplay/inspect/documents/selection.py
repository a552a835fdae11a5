"""The diagnostics of a round's selection, from its committed tables (`show`). No model and no metric of a user's is asked.

Runs of earlier versions lack some columns: the parts made of them are absent.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import SelectionSummary, SelectOutcome
from selfplay.core.stages import CANDIDATES, READ
from selfplay.inspect.query.tables import column_names
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.diagnostics.records import Diagnostics
from selfplay.selection.groups import group_name
from selfplay.selection.reasons import DropReasons
from selfplay.selection.select import PairPool, Selection
from selfplay.store.run import Store
from selfplay.store.run_state import config_of_round

_NUMBERS = (
    "reward_chosen", "reward_rejected", "num_tokens_chosen", "num_tokens_rejected", "policy_logp_chosen",
    "policy_logp_rejected", "reference_logp_chosen", "reference_logp_rejected",
)  # fmt: skip
_OUTCOME = ("explicit_margin", "implicit_margin", "alignment_potential", "metric_value", "rank", "kept", "drop_reason")
_IDS = ("pair_id", "prompt_id", "chosen_response_id", "rejected_response_id")
_NO_GROUP = "(none)"


def selection_diagnostics(store: Store, round_number: int, by: str | None = None) -> Diagnostics:
    """Diagnostics of a round whose *select* is committed. Groups: `selection.group_column` where the run has one, else
    the source files where there are several; and the prompts' column `by`.

    Raises ConfigError for a column `by` that no prompt has, CorruptionError.
    """
    table = store.table(round_number, "select", columns=[*_IDS, *_NUMBERS, *_OUTCOME])
    prompts = store.table(round_number, "prompts", columns=["prompt_id", "source_file", "columns_json"])
    prompt_P = _index(table["prompt_id"], prompts["prompt_id"])
    ranked_in = config_of_round(store, round_number)["selection"].get("group_column")
    groups = _groups(prompts, prompt_P, ranked_in, by)
    pool = PairPool(
        pair_id=table["pair_id"],
        columns=_columns(store, round_number, table),
        group_P=groups[ranked_in].code_P if ranked_in is not None else None,
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
        metric_value_P=table["metric_value"].cast(pa.float64()).to_numpy(),
        rank_P=rank_P,
        kept_P=table["kept"].to_numpy().astype(np.bool_),
        drop_reason_P=DropReasons.of(table["drop_reason"].to_pylist()),
        summary=summary,
    )


def _columns(store: Store, number: int, table: pa.Table) -> dict[str, NDArray[Any]]:
    """Number columns by name: those of the pairs table, those that the metric read, the prompts' rewards, gold rewards."""
    found = {name: _numbers(table[name]) for name in _NUMBERS}
    candidates = column_names(store, number, "pair", CANDIDATES)
    of_prompts = [name for name in ("prompt_reward_mean", "prompt_reward_std") if name in candidates]
    if of_prompts:
        # by the chosen response: the statistics are the same in every pair of its prompt
        beside = store.table(number, "pair", CANDIDATES, columns=["chosen_response_id", *of_prompts])
        row_P = _index(table["chosen_response_id"], beside["chosen_response_id"])
        found |= {name: _taken(beside[name], row_P) for name in of_prompts}
    read = [name for name in column_names(store, number, "select", READ) if name not in ("pair_id", "group", *found)]
    if read:
        beside = store.table(number, "select", READ, columns=["pair_id", *read])
        row_P = _index(table["pair_id"], beside["pair_id"])
        found |= {name: _taken(beside[name], row_P) for name in read}
    scores = store.table(number, "score", columns=["response_id", "gold_reward"])
    for side in ("chosen", "rejected"):
        row_P = _index(table[f"{side}_response_id"], scores["response_id"])
        found[f"gold_reward_{side}"] = _taken(scores["gold_reward"], row_P)
    return {name: values for name, values in found.items() if values is not None}


def _numbers(column: pa.ChunkedArray) -> NDArray[Any] | None:
    """float64 with NaN for null; None where every row is null."""
    if column.null_count == len(column) > 0:
        return None
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _taken(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    values = _numbers(column)
    return None if values is None else values[rows]


def _index(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """The row of each id among others, all of which are there in a run that verifies."""
    found = pc.index_in(ids, value_set=among.combine_chunks())
    assert not found.null_count, "an id of a later table is in the table that it comes from"
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _groups(
    prompts: pa.Table, prompt_P: NDArray[np.int64], ranked_in: str | None, by: str | None
) -> dict[str, Grouping]:
    wanted = dict.fromkeys(name for name in (ranked_in, by) if name is not None)
    own = [json.loads(document) for document in prompts["columns_json"].to_pylist()] if wanted else []
    files: list[str] = prompts["source_file"].to_pylist()
    found: dict[str, Grouping] = {}
    for name in wanted:
        columns = list(dict.fromkeys(column for row in own for column in row))
        if name not in columns:
            if name == "source_file":
                found[name] = _of_pairs(files, prompt_P)
                continue
            near = difflib.get_close_matches(name, [*columns, "source_file"], n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"the prompts of this round have no column {name!r}",
                f"{hint}They have: {', '.join([*columns, 'source_file'])}.",
            )
        found[name] = _of_pairs([group_name(row, name) or _NO_GROUP for row in own], prompt_P)
    if ranked_in is None and "source_file" not in found and len(set(files)) > 1:
        found["source_file"] = _of_pairs(files, prompt_P)
    return found


def _of_pairs(names: Sequence[str], prompt_P: NDArray[np.int64]) -> Grouping:
    of_prompts = Grouping.of(names)
    return Grouping(of_prompts.code_P[prompt_P], of_prompts.names)
