"""What the metric reads and the dataset lacks, computed by the stages of a run: *score* for rewards, *logprobs* for what a model
has to pass over the pairs for.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import LogprobsOutcome
from selfplay.core.records import part_column
from selfplay.dataset_selection import importing
from selfplay.dataset_selection.building import prompt_numbers
from selfplay.dataset_selection.candidates import (
    Pairs,
    built,
    check_builder,
    check_rules,
    commit_candidates,
    filters,
    number_columns,
    other_columns,
    ready_made,
)
from selfplay.dataset_selection.conversations import check_conversations, check_models_load
from selfplay.dataset_selection.importing import NO_REWARD, ROUND, Imported, as_round
from selfplay.dataset_selection.inputs import check_function, limit_of
from selfplay.dataset_selection.needs import EMBEDDING, PROMPT_REWARDS, YES, Needs, find_needs
from selfplay.dataset_selection.reading.dataset import OfflineDataset
from selfplay.dataset_selection.reading.several import parts_of_sources
from selfplay.dataset_selection.rendering import ResponseRenderer
from selfplay.dataset_selection.repeats import flag_repeats
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.execution.quarantine import QUARANTINED
from selfplay.execution.sharding import quarantined
from selfplay.inputs.rows.columns import several_responses
from selfplay.run.stages import logprobs, metric_features, score
from selfplay.run.stages.context import Policy, StageContext
from selfplay.selection.arrays import Floats
from selfplay.selection.metrics import Metric
from selfplay.selection.metrics.inputs import NUM_TOKENS, REWARDS
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.reasons import TOO_LONG_FOR_TRAINING, DropReasons, is_kept, with_reason
from selfplay.store.spool import Spool

NOT_RENDERED = "not_rendered"
TOO_LONG_FOR_EMBEDDING = "too_long_for_embedding_model"


def given_columns(dataset: OfflineDataset) -> set[str]:
    """The columns of numbers that the pairs have before anything is computed."""
    if dataset.pairs is not None:
        return {*number_columns(dataset.pairs.slice(0, 1))}
    assert dataset.prompts is not None and dataset.responses is not None
    names = {name for name in ("policy_logp", "reference_logp", "num_tokens") if name in dataset.responses.column_names}
    given = {f"{name}_{side}" for name in names for side in ("chosen", "rejected")} | {*prompt_numbers(dataset.prompts)}
    return given | ({*REWARDS, *PROMPT_REWARDS} if "reward" in dataset.responses.column_names else set())


def plan(
    settings: SelectSettings, metric: Metric, dataset: OfflineDataset, rules: PairRules | None
) -> tuple[Needs, set[str]]:
    """What has to be computed, and the columns that the pairs have already. Raises ConfigError for what is missing and cannot
    be computed, and for settings that do nothing."""
    given = given_columns(dataset)
    if dataset.pairs is None:
        assert dataset.responses is not None and dataset.prompts is not None
        has_reward = "reward" in dataset.responses.column_names
        if not has_reward and not settings.has_rewards:
            column = "rewards" if "responses" in dataset.recognised else "reward"
            raise ConfigError(
                "these responses have no scores, which are needed to build pairs",
                "Give --reward-model MODEL or --reward-function module:function, or name the column with --columns "
                f"{column}=COLUMN.",
            )
        needs = find_needs(settings, metric, given, has_text=True)
        if settings.keep_zero_margins:
            raise ConfigError(
                "keep_zero_margins is for existing pairs: of two responses with equal rewards neither is better",
                "Leave it out.",
            )
        check_builder(as_round(dataset), rules or PairRules())
        rows = dataset.responses if "columns_json" in dataset.responses.column_names else dataset.prompts
    else:
        rows, has_text = dataset.pairs, "chosen" in dataset.pairs.column_names
        several = several_responses(other_columns(rows))
        if not has_text and (settings.drop_duplicates or settings.drop_reversed):
            raise ConfigError(
                "drop_duplicates and drop_reversed compare texts, and this is a table of numbers", "Leave them out."
            )
        needs = find_needs(settings, metric, given, has_text=has_text, several=several)
        if rules is not None:
            made = (*(REWARDS if needs.rewards else ()), *(NUM_TOKENS if needs.rendered else ()))
            check_rules(rules, {*given, *made}, has_text=has_text)
    for part in parts_of_sources(rows) if needs.rewards else ():
        check_function(settings, other_columns(part))
    return needs, given


def compute(
    context: StageContext, settings: SelectSettings, dataset: OfflineDataset, needs: Needs, rules: PairRules | None
) -> Pairs:
    """The pairs of a dataset with texts with everything that has to be computed, by the stages before *select*. Stages that an
    earlier attempt committed are not run again."""
    imported, notes = as_round(dataset), list[str]()
    inputs = context.inputs
    said = [
        *check_models_load(inputs, needs),
        *check_conversations(inputs, needs, settings.dataset_name, imported.prompts),
    ]
    renderer = ResponseRenderer(inputs.renderer, inputs.stop_token_ids) if needs.rendered else None
    importing.import_prompts(context, imported, renderer, notes)
    importing.import_responses(context, imported, renderer, notes)
    if not context.store.is_committed(ROUND, "score"):
        (score.run(context, ROUND) if needs.rewards else importing.import_rewards(context, imported))
    pairs = _candidates(context, settings, dataset, imported, needs, rules)
    pairs.notes.extend(said)
    flag_repeats(pairs, settings)
    if notes:
        pairs.notes.append(f"The policy's chat template cannot write some texts; the first error: {notes[0]}")
    if renderer is not None:
        if renderer.num_apart:
            pairs.notes.append(
                f"{renderer.num_apart} responses were tokenized alone: the chat template does not write a "
                "conversation as a continuation of its prompt."
            )
        _lengths(context, imported, pairs, rules, settings)
    commit_candidates(context, imported, pairs)
    _log_probs(context, imported, needs)
    _add_log_probs(context, imported, pairs, needs)
    return pairs


def _candidates(
    context: StageContext,
    settings: SelectSettings,
    dataset: OfflineDataset,
    imported: Imported,
    needs: Needs,
    rules: PairRules | None,
) -> Pairs:
    scored = context.store.table(ROUND, "score", columns=["reward", "drop_reason"])
    reward_R: Floats = np.asarray(scored["reward"].to_numpy(), dtype=np.float64)
    why_R = DropReasons.of([None if reason == NO_REWARD else reason for reason in scored["drop_reason"].to_pylist()])
    if dataset.pairs is not None:
        computed = (reward_R, why_R) if needs.rewards else ()
        pairs = ready_made(dataset.pairs, rules, *computed, keep_zero_margins=settings.keep_zero_margins)
        _add_parts(context, settings, pairs, needs)
        return pairs
    tokens = context.store.table(ROUND, "sample", columns=["num_tokens"])["num_tokens"].to_numpy()
    rules = rules or PairRules()
    lengths = tokens if needs.rendered else None
    pairs = built(imported, reward_R, why_R, lengths, rules, settings.seed, Spool(context.store.layout.root))
    _add_parts(context, settings, pairs, needs)
    return pairs


def _add_parts(context: StageContext, settings: SelectSettings, pairs: Pairs, needs: Needs) -> None:
    """The parts of combined rewards as columns of the pairs, `reward_NAME_chosen` and `reward_NAME_rejected`."""
    if settings.reward is None or not needs.rewards:
        return
    names = [part_column(name) for name in sorted(settings.reward.parts)]
    scored = context.store.table(ROUND, "score", columns=names)
    for name in names:
        values_R = scored[name].cast(pa.float64()).to_numpy()
        pairs.columns |= {f"{name}_chosen": values_R[pairs.chosen_P], f"{name}_rejected": values_R[pairs.rejected_P]}


def _lengths(
    context: StageContext, imported: Imported, pairs: Pairs, rules: PairRules | None, settings: SelectSettings
) -> None:
    """Numbers of tokens of the pairs (NaN where one cannot be written), and the reasons that follow from them."""
    of_prompts = context.store.table(ROUND, "prompts", columns=["num_prompt_tokens"])["num_prompt_tokens"].to_numpy()
    of_responses = context.store.table(ROUND, "sample", columns=["num_tokens"])["num_tokens"].to_numpy()
    prompt_P = of_prompts[imported.prompt_row_R[pairs.chosen_P]].astype(np.float64)
    sides = [of_responses[rows].astype(np.float64) for rows in (pairs.chosen_P, pairs.rejected_P)]
    missing_P = (sides[0] == 0) | (sides[1] == 0)
    pairs.reasons = with_reason(pairs.reasons, missing_P, NOT_RENDERED)
    if (limit := limit_of(context.inputs)) is not None:
        long_P = prompt_P + np.maximum(*sides) > limit
        pairs.reasons = with_reason(pairs.reasons, long_P, TOO_LONG_FOR_TRAINING)
        if count := int(pairs.reasons.is_reason(TOO_LONG_FOR_TRAINING).sum()):
            pairs.notes.append(
                f"{count} of {pairs.table.num_rows} pairs have more than {limit} tokens: they are dropped, not cut."
            )
    for name, values in zip(("num_prompt_tokens", *NUM_TOKENS), (prompt_P, *sides), strict=True):
        pairs.columns[name] = np.where(missing_P, np.nan, values)
    if pairs.built is None and rules is not None and rules.max_length_gap is not None:
        pairs.drop(filters(pairs.table, pairs.columns, rules, settings.keep_zero_margins))


def _log_probs(context: StageContext, imported: Imported, needs: Needs) -> None:
    """Commit stage *logprobs*: a run's, or the dataset's own log-probs with what the metric reads beside them."""
    if context.store.is_committed(ROUND, "logprobs"):
        return
    if needs.policy_logps or needs.reference_logps:
        logprobs.run(context, ROUND)
        return
    started, writer = time.monotonic(), context.writer(ROUND, "logprobs")
    table = importing.import_logprobs(imported)
    if not writer.shards():
        writer.write_shard(0, table)
    policy = context.inputs.policy
    made = metric_features.make(
        context, ROUND, writer, Policy(str(policy.folder), str(policy.folder), policy.digest, 0)
    )
    lost = quarantined(writer, *metric_features.TABLES.values())
    context.commit(writer, started, importing.logprobs_outcome(table, made, lost))


def _add_log_probs(context: StageContext, imported: Imported, pairs: Pairs, needs: Needs) -> None:
    """The columns that stage *logprobs* made, and the reasons of what has none."""
    store, ids = context.store, imported.responses["response_id"].combine_chunks()
    chosen_id = pa.chunked_array([ids.take(pa.array(pairs.chosen_P))])
    rejected_id = pa.chunked_array([ids.take(pa.array(pairs.rejected_P))])
    outcome = store.outcome(ROUND, LogprobsOutcome)
    given_up = pa.array([*outcome.quarantined], pa.string())
    lost_P = pc.or_(*(pc.is_in(side, value_set=given_up) for side in (chosen_id, rejected_id))).to_numpy()
    table = store.table(ROUND, "logprobs")
    for source, wanted in (("policy_logp", needs.policy_logps), ("reference_logp", needs.reference_logps)):
        for side, side_ids in (("chosen", chosen_id), ("rejected", rejected_id)) if wanted else ():
            pairs.columns[f"{source}_{side}"] = _by_id(table[source], table["response_id"], side_ids)
            pairs.columns[f"{source}_{side}"][lost_P] = np.nan
    lost = int((lost_P & is_kept(pairs.reasons)).sum())
    pairs.reasons = with_reason(pairs.reasons, lost_P, QUARANTINED)
    if lost:
        pairs.notes.append(f"{lost} of {pairs.table.num_rows} pairs have no log-probs: {QUARANTINED}.")
    prompt_P = imported.prompt_row_R[pairs.chosen_P]
    for name in sorted(context.inputs.ranking.made_for(ROUND)):
        pairs.columns[name] = metric_features.read(context, ROUND, name, chosen_id, prompt_P)
    made = outcome.made_for_metric
    if trimmed := made.get(YES, {}).get("num_trimmed"):
        pairs.notes.append(f"In {trimmed} questions the middle of the example was cut out to fit the context.")
    if made.get(EMBEDDING, {}).get("num_too_long"):
        missing_P = np.isnan(pairs.columns[EMBEDDING]).all(axis=1)
        pairs.reasons = with_reason(pairs.reasons, missing_P, TOO_LONG_FOR_EMBEDDING)


def _by_id(column: pa.ChunkedArray, ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> Any:
    """The values of some ids as float64, NaN where an id is missing."""
    row = pc.index_in(wanted, value_set=ids.combine_chunks())
    values = np.append(column.cast(pa.float64()).to_numpy(), np.nan)
    return values[row.fill_null(len(values) - 1).to_numpy()]
