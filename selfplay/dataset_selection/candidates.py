"""The candidate pairs of a dataset: those that it has, filtered, or those that are built of its responses."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import PairOutcome
from selfplay.core.records import Unused, schema
from selfplay.core.stages import CANDIDATES
from selfplay.dataset_selection.building import BuiltPairs, build
from selfplay.dataset_selection.importing import ROUND, Imported, shaped
from selfplay.dataset_selection.turn_texts import TurnTexts
from selfplay.run.stages.context import StageContext
from selfplay.selection.arrays import Floats, Ints
from selfplay.selection.metrics.inputs import NUM_TOKENS, REWARDS
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing import pair_filters
from selfplay.selection.reasons import REWARD_NOT_FINITE, DropReasons, no_reasons, with_reason
from selfplay.store.spool import Spool

# Columns of a pairs table that are no numbers for a metric.
_NO_NUMBERS = (
    "pair_id", "prompt_id", "source", "source_file", "source_row", "prompt", "chosen", "rejected", "chosen_response_id",
    "rejected_response_id", "group", "columns_json", "duplicate_of", "reversed_of", "source_file_chosen",
    "source_file_rejected", "source_row_chosen", "source_row_rejected", "group_chosen", "group_rejected",
)  # fmt: skip
# Made by a selection: an earlier one's are not read.
_MADE = ("alignment_potential", "metric_value", "rank", "kept", "drop_reason")
_OF_CANDIDATES = ("reward_chosen", "reward_rejected", "prompt_reward_mean", "prompt_reward_std")


@dataclass
class Pairs:
    """P pairs on their way to the ranking. `table`: as read or built; `columns`: numbers by name, P each (an embedding: P x D),
    NaN where a value is missing; `reasons`: why a pair is dropped; `chosen_P`, `rejected_P`: rows of its responses in the
    round, empty for a table of numbers; `notes`: sentences for the user."""

    table: pa.Table
    columns: dict[str, Any]
    reasons: DropReasons
    chosen_P: Ints
    rejected_P: Ints
    built: BuiltPairs | None = None
    notes: list[str] = field(default_factory=list)

    def drop(self, found: DropReasons) -> None:
        """Give the pairs that are not dropped yet the reasons found."""
        for name in found.counts():
            self.reasons = with_reason(self.reasons, found.is_reason(name), name)


def number_columns(pairs: pa.Table) -> dict[str, Any]:
    """The columns of a pairs table that a metric may read: one array over P pairs each (an embedding: P x D), NaN where a
    value is missing."""
    found = {}
    for name in pairs.column_names:
        if name in _NO_NUMBERS or name in _MADE:
            continue
        found[name] = _vectors(pairs[name]) if pa.types.is_fixed_size_list(pairs[name].type) else pairs[name].to_numpy()
    return found


def _vectors(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A column of lists of one length, none of them null, as P x D."""
    flat = pc.list_flatten(column).to_numpy()
    return np.asarray(flat, dtype=np.float32).reshape(len(column), column.type.list_size)


def other_columns(table: pa.Table) -> list[str]:
    """Names of the source's other columns, by the first rows that have any."""
    if "columns_json" not in table.column_names or not table.num_rows:
        return []
    names: dict[str, None] = {}
    for text in table["columns_json"].slice(0, 1000).to_pylist():
        names |= dict.fromkeys(json.loads(text) if text else {})
    return list(names)


# ---------------------------------------------------------------------------------------------------- ready-made pairs


def ready_made(
    table: pa.Table,
    rules: PairRules | None,
    reward_R: Floats | None = None,
    why_R: DropReasons | None = None,
    *,
    keep_zero_margins: bool = False,
) -> Pairs:
    """The pairs of a dataset. `reward_R` are computed rewards of the chosen responses, then of the rejected ones (NaN where
    there is none), `why_R` their reasons. `keep_zero_margins`: equal rewards are no fault."""
    size = table.num_rows
    rows_P = np.arange(size) if "chosen" in table.column_names else np.empty(0, dtype=np.int64)
    pairs = Pairs(table, number_columns(table), no_reasons(size), rows_P, rows_P + size)
    if reward_R is not None and why_R is not None:
        pairs.drop(filters(table, pairs.columns, rules, keep_zero_margins))
        pairs.columns |= {"reward_chosen": reward_R[:size], "reward_rejected": reward_R[size:]}
        for rows in (slice(0, size), slice(size, 2 * size)):
            pairs.drop(why_R.at(np.arange(2 * size)[rows]))
    pairs.drop(filters(table, pairs.columns, rules, keep_zero_margins))
    return pairs


def filters(
    pairs: pa.Table, columns: Mapping[str, Any], rules: PairRules | None, keep_zero_margins: bool = False
) -> DropReasons:
    """Why pairs are left out. A rule whose columns do not exist yet is not asked."""
    has_text = "chosen" in pairs.column_names
    if has_text or rules is not None:
        return pair_filters(
            _askable(rules or PairRules(), columns),
            pairs.num_rows,
            reward_chosen_P=columns.get("reward_chosen"),
            reward_rejected_P=columns.get("reward_rejected"),
            chosen=TurnTexts(pairs["chosen"]) if has_text else None,
            rejected=TurnTexts(pairs["rejected"]) if has_text else None,
            num_tokens_chosen_P=columns.get("num_tokens_chosen"),
            num_tokens_rejected_P=columns.get("num_tokens_rejected"),
            keep_zero_margins=keep_zero_margins,
        )
    reasons = no_reasons(pairs.num_rows)
    for name in REWARDS:
        if name in columns:
            reasons = with_reason(reasons, ~np.isfinite(columns[name]), REWARD_NOT_FINITE)
    return reasons


def _askable(rules: PairRules, columns: Collection[str]) -> PairRules:
    if not set(REWARDS) <= set(columns):
        rules = replace(rules, min_gap=0.0, min_reward_chosen=None, max_reward_rejected=None)
    return rules if set(NUM_TOKENS) <= set(columns) else replace(rules, max_length_gap=None)


def check_rules(rules: PairRules, columns: Collection[str], *, has_text: bool) -> None:
    """Raises ConfigError for a rule about ready-made pairs whose columns neither exist nor will be computed."""
    asked = _askable(rules, columns)
    names = [f.name for f in fields(PairRules) if getattr(asked, f.name) != getattr(rules, f.name)]
    if names:
        ways = "--policy MODEL counts tokens" if names == ["max_length_gap"] else "--reward-model MODEL gives rewards"
        raise ConfigError(
            f"pairs.{names[0]} reads columns that these pairs do not have", f"{ways}, or remove the rule."
        )
    if rules.max_similarity < 1 and not has_text:
        raise ConfigError("pairs.max_similarity compares texts, and this is a table of numbers", "Leave it out.")


# ------------------------------------------------------------------------------------------------------- built pairs


def check_builder(imported: Imported, rules: PairRules) -> None:
    """Raises ConfigError for a builder that takes more responses than any prompt has."""
    most = int(np.bincount(imported.prompt_row_R).max(initial=0))
    if most >= 2:  # with fewer no rule gives a pair, which `build` reports with the reasons
        try:
            rules.check_num_responses(most)
        except ValueError as error:
            raise ConfigError(f"no prompt has more than {most} responses: {error}", "Choose another rule.") from None


def built(
    imported: Imported,
    reward_R: Floats,
    why_R: DropReasons,
    num_tokens_R: Ints | None,
    rules: PairRules,
    seed: int,
    spool: Spool | None = None,
) -> Pairs:
    """The pairs built of responses. `num_tokens_R` are lengths for a dataset that has none. A large table is kept in `spool`."""
    responses = imported.responses
    if num_tokens_R is not None and "num_tokens" not in responses.column_names:
        responses = responses.append_column("num_tokens", pa.array(num_tokens_R))
    reasons = no_reasons(responses.num_rows)
    if "drop_reason" in responses.column_names:
        reasons = DropReasons.of(responses["drop_reason"].to_pylist())
    for name in why_R.counts():
        reasons = with_reason(reasons, why_R.is_reason(name), name)
    found = build(imported.prompts, responses, imported.prompt_row_R, reward_R, reasons, rules, seed, spool)
    size, notes = found.pairs.num_rows, list[str]()
    if "group_chosen" in found.pairs.column_names and (without := _num_of_two_groups(found.pairs)):
        notes.append(
            f"In {without} of {size} pairs the two responses are of different groups: these pairs are in no group."
        )
    return Pairs(
        found.pairs, number_columns(found.pairs), no_reasons(size), found.chosen_P, found.rejected_P, found, notes
    )


def _num_of_two_groups(pairs: pa.Table) -> int:
    """Pairs whose two responses are not of one group; two that are in no group are of none."""
    chosen, rejected = pairs["group_chosen"], pairs["group_rejected"]
    differ = pc.coalesce(pc.not_equal(chosen, rejected), pc.xor(pc.is_null(chosen), pc.is_null(rejected)))
    return int(pc.sum(differ).as_py() or 0)


def commit_candidates(context: StageContext, imported: Imported, pairs: Pairs) -> None:
    """Commit stage *pair*: the candidates with the reasons that are known before a model passes over them."""
    if context.store.is_committed(ROUND, "pair"):
        return
    started, writer = time.monotonic(), context.writer(ROUND, "pair")
    ids, size = imported.responses["response_id"].combine_chunks(), pairs.table.num_rows
    columns: dict[str, Any] = {
        "pair_id": pairs.table["pair_id"],
        "chosen_response_id": ids.take(pa.array(pairs.chosen_P)),
        "rejected_response_id": ids.take(pa.array(pairs.rejected_P)),
    }
    for name in _OF_CANDIDATES:
        values = pairs.columns.get(name)
        columns[name] = pa.nulls(size, pa.float64()) if values is None else pa.array(values, pa.float64())
    columns["drop_reason"] = pa.array(pairs.reasons.tolist(), pa.string())
    unused = schema(Unused).empty_table()
    if pairs.built is not None:
        left = pairs.built.unused
        unused = shaped(Unused, {"response_id": left["response_id"], "reason": left["reason"]}, left.num_rows)
    if not writer.shards(CANDIDATES):
        writer.write_shard(0, pa.table(columns), CANDIDATES)
    if not writer.shards():
        writer.write_shard(0, unused)
    tokens = [pairs.columns.get(name) for name in NUM_TOKENS]
    gap_P = None if tokens[0] is None or tokens[1] is None else np.asarray(tokens[0], float) - tokens[1]
    outcome = PairOutcome(
        num_pairs=size,
        num_prompts_paired=len(np.unique(imported.prompt_row_R[pairs.chosen_P])),
        unused_reasons={item["values"]: item["counts"] for item in unused["reason"].value_counts().to_pylist()},
        length_penalty=pairs.built.length_penalty if pairs.built is not None else 0.0,
        length_fit=None,
        length_gap_mean=float(np.nanmean(gap_P)) if gap_P is not None and np.isfinite(gap_P).any() else None,
        gates_forced=[],
    )
    context.commit(writer, started, outcome)
