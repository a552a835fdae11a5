"""From a dataset as read to pairs with everything that the metric needs: built, filtered, and what is missing computed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.building import BuiltPairs, build, prompt_numbers, prompt_rows
from selfplay.dataset_selection.computing import Computing, Filled
from selfplay.dataset_selection.model_passes import passes
from selfplay.dataset_selection.models import check_function, needed_text
from selfplay.dataset_selection.needs import PROMPT_REWARDS, Needs, find_needs
from selfplay.dataset_selection.reading.dataset import OfflineDataset
from selfplay.dataset_selection.scoring import pair_items, response_items, score
from selfplay.inputs.rows.columns import several_responses
from selfplay.selection.metrics import Metric
from selfplay.selection.metrics.inputs import NUM_TOKENS, REWARDS
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing import pair_filters
from selfplay.selection.reasons import REWARD_NOT_FINITE, DropReasons, no_reasons, with_reason

# Columns of a pairs table that are no numbers for a metric.
_NO_NUMBERS = (
    "pair_id", "prompt_id", "source_file", "source_row", "prompt", "chosen", "rejected", "chosen_response_id",
    "rejected_response_id", "group", "columns_json",
)  # fmt: skip
# Made by a selection: an earlier one's are not read.
_MADE = ("alignment_potential", "metric_value", "rank", "kept", "drop_reason")


def numbers(pairs: pa.Table) -> dict[str, Any]:
    """The columns of a pairs table that a metric may read: one array over P pairs each (an embedding: P x D), NaN where a
    value is missing."""
    found = {}
    for name in pairs.column_names:
        if name in _NO_NUMBERS or name in _MADE:
            continue
        found[name] = vectors(pairs[name]) if pa.types.is_fixed_size_list(pairs[name].type) else pairs[name].to_numpy()
    return found


def vectors(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A column of lists of one length, none of them null, as P x D."""
    flat = pc.list_flatten(column).to_numpy()
    return np.asarray(flat, dtype=np.float32).reshape(len(column), column.type.list_size)


def filters(pairs: pa.Table, columns: Mapping[str, Any], rules: PairRules | None) -> DropReasons:
    """Why pairs are left out before anything is computed of them, and afterwards for what was computed: a rule whose columns
    are not there yet is not asked."""
    has_text = "chosen" in pairs.column_names
    if has_text or rules is not None:
        return pair_filters(
            _askable(rules or PairRules(), columns),
            pairs.num_rows,
            reward_chosen_P=columns.get("reward_chosen"),
            reward_rejected_P=columns.get("reward_rejected"),
            chosen=_contents(pairs["chosen"]) if has_text else None,
            rejected=_contents(pairs["rejected"]) if has_text else None,
            num_tokens_chosen_P=columns.get("num_tokens_chosen"),
            num_tokens_rejected_P=columns.get("num_tokens_rejected"),
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


def _check_rules(rules: PairRules, columns: Collection[str], has_text: bool) -> None:
    """Raises ConfigError for a rule whose columns are neither there nor will be computed."""
    there = _askable(rules, columns)
    names = [f.name for f in fields(PairRules) if getattr(there, f.name) != getattr(rules, f.name)]
    if names:
        ways = "--policy MODEL counts tokens" if names == ["max_length_gap"] else "--reward-model MODEL gives rewards"
        raise ConfigError(
            f"pairs.{names[0]} reads columns that these pairs do not have", f"{ways}; or leave the rule out."
        )
    if rules.max_similarity < 1 and not has_text:
        raise ConfigError("pairs.max_similarity compares texts, and this is a table of numbers", "Leave it out.")


def _contents(turns: pa.ChunkedArray) -> list[str]:
    """The text of each one-turn conversation."""
    flat = pc.struct_field(pc.list_flatten(turns), "content")
    texts: list[str] = flat.to_pylist()
    assert len(texts) == len(turns), "chosen and rejected are one turn each"
    return texts


def computed(
    computing: Computing, dataset: OfflineDataset, metric: Metric, rules: PairRules | None
) -> tuple[pa.Table, BuiltPairs | None, Filled]:
    """The pairs, built where the dataset has responses, with everything computed that is missing."""
    settings, models = computing.settings, computing.models
    built: BuiltPairs | None = None
    if dataset.kind == "responses":
        built, needs = _built(computing, dataset, metric, rules or PairRules())
        pairs, columns = built.pairs, numbers(built.pairs)
        reasons = no_reasons(pairs.num_rows)
    else:
        assert dataset.pairs is not None
        pairs = dataset.pairs
        columns = numbers(pairs)
        needs = find_needs(
            settings, metric, columns, has_text="chosen" in pairs.column_names,
            several=several_responses(_other_columns(pairs)),
        )  # fmt: skip
        if rules is not None:
            made = (*(REWARDS if needs.rewards else ()), *(NUM_TOKENS if needs.rendered else ()))
            _check_rules(rules, {*columns, *made}, "chosen" in pairs.column_names)
        reasons = filters(pairs, columns, rules)
        if needs.rewards:
            check_function(models, _other_columns(pairs), settings.dataset)
    needed_text(needs, models)
    rewards: dict[str, Any] = {}
    if needs.rewards:
        rewards, reasons = _rewarded(computing, pairs, columns, reasons, rules)
    filled = passes(computing, pairs, needs, reasons)
    filled.columns = {**rewards, **filled.columns}
    if built is None and rules is not None and rules.max_length_gap is not None and needs.rendered:
        assert filled.reasons is not None
        found = filters(pairs, {**columns, **filled.columns}, rules)
        for name in found.counts():
            filled.reasons = with_reason(filled.reasons, found.is_reason(name), name)
    return pairs, built, filled


def _rewarded(
    computing: Computing, pairs: pa.Table, columns: Mapping[str, Any], reasons: DropReasons, rules: PairRules | None
) -> tuple[dict[str, Any], DropReasons]:
    """The rewards of ready-made pairs, and what follows from them."""
    ids, items = pair_items(pairs)
    rewards, why = score(computing, ids, items)
    computed = {"reward_chosen": rewards[0::2].copy(), "reward_rejected": rewards[1::2].copy()}
    for side in (0, 1):
        of_side = why.at(np.arange(side, len(ids), 2))
        for name in of_side.counts():
            reasons = with_reason(reasons, of_side.is_reason(name), name)
    found = filters(pairs, {**columns, **computed}, rules)
    for name in found.counts():
        reasons = with_reason(reasons, found.is_reason(name), name)
    return computed, reasons


def _built(computing: Computing, dataset: OfflineDataset, metric: Metric, rules: PairRules) -> tuple[BuiltPairs, Needs]:
    """Pairs out of responses, whose rewards are computed where there are none; and what is still to be computed of them."""
    settings, models = computing.settings, computing.models
    prompts, responses = dataset.prompts, dataset.responses
    assert prompts is not None and responses is not None
    names = {name for name in ("policy_logp", "reference_logp", "num_tokens") if name in responses.column_names}
    there = {f"{name}_{side}" for name in names for side in ("chosen", "rejected")} | set(prompt_numbers(prompts))
    if "reward" in responses.column_names:
        there |= {*REWARDS, *PROMPT_REWARDS}
    elif settings.reward_model is None and settings.reward_function is None:
        raise ConfigError(
            "these responses have no scores, so that there is nothing to build pairs by",
            "--reward-model MODEL or --reward-function module:function, or name the column with --columns reward=COLUMN.",
        )
    needs = find_needs(settings, metric, there, has_text=True)
    row_R = prompt_rows(prompts, responses)
    most = int(np.bincount(row_R).max(initial=0))
    if most >= 2:  # fewer give no pair whatever the rules, and that is said with the reasons
        try:
            rules.check_num_responses(most)
        except ValueError as error:
            raise ConfigError(f"no prompt has more than {most} responses: {error}", "Choose another rule.") from None
    reasons = DropReasons.of(responses["drop_reason"].to_pylist()) if "drop_reason" in responses.column_names else None
    reasons = no_reasons(responses.num_rows) if reasons is None else reasons
    if needs.rewards:
        of_rows = responses if "columns_json" in responses.column_names else prompts
        check_function(models, _other_columns(of_rows), settings.dataset)
        ids, items = response_items(prompts, responses, row_R)
        rewards, why = score(computing, ids, items)
        for name in why.counts():
            reasons = with_reason(reasons, why.is_reason(name), name)
    else:
        rewards = responses["reward"].to_numpy().astype(np.float64)
    return build(prompts, responses, rewards, reasons, rules, settings.seed), replace(needs, rewards=False)


def _other_columns(table: pa.Table) -> list[str]:
    """Names of the source's other columns, by the first row that has any."""
    if "columns_json" not in table.column_names or not table.num_rows:
        return []
    names: dict[str, None] = {}
    for text in table["columns_json"].slice(0, 1000).to_pylist():
        names |= dict.fromkeys(json.loads(text) if text else {})
    return list(names)
