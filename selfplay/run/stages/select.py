"""Stage *select*: margins, alignment potential, ranks, and which pairs are kept. The table is complete: TRL and
`datasets.load_dataset` read the folder as it is. What else the metric read lies hidden beside it (`.read/`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.config.schema import SelectionConfig
from selfplay.core.losses import LOSSES
from selfplay.core.outcomes import LogprobsOutcome, SelectOutcome
from selfplay.core.records import Pair, schema
from selfplay.core.stages import CANDIDATES, READ
from selfplay.execution.quarantine import QUARANTINED
from selfplay.inputs.metric_requirements import EMBEDDING, prompt_number
from selfplay.run.stages import metric_features as metric_inputs
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.rows import find_rows, prompt_rows
from selfplay.selection.arrays import Bools, Floats, Ints
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.groups import group_name
from selfplay.selection.keep import Quotas
from selfplay.selection.metrics import columns_needed
from selfplay.selection.reasons import no_reasons, with_reason
from selfplay.selection.select import PairPool, Selection, select

# A shard has so many pairs, or fewer with about so many tokens: a shard is in memory several times while it is written.
SHARD_PAIRS, SHARD_TOKENS = 25_000, 8_000_000
# Kept pairs are by rank, so that each shard needs texts from everywhere in the round. One pass over the round collects those of
# several shards: of so many tokens, about 300 MB of text.
PASS_TOKENS = 64_000_000

_LOGPS = ("policy_logp", "reference_logp")
_OF_CANDIDATES = ("reward_chosen", "reward_rejected", "prompt_reward_mean", "prompt_reward_std")


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The P candidate pairs of a round by id: `columns` are P numbers each, `*_row_P` rows of the responses and prompts;
    `lost_P`: a response of the pair killed the worker that was to pass over it, so that it cannot be ranked or trained on."""

    pair_id: pa.Array
    chosen_id: pa.ChunkedArray
    rejected_id: pa.ChunkedArray
    columns: dict[str, Any]
    chosen_row_P: Ints
    rejected_row_P: Ints
    prompt_row_P: Ints
    lost_P: Bools


def run(context: StageContext, round_number: int) -> None:
    """Write the pairs table of a round, kept pairs and dropped ones."""
    started = time.monotonic()
    writer = context.writer(round_number, "select")
    candidates = _candidates(context, round_number)
    extra, groups = _metric_columns(context, round_number, candidates)
    selection = _select(context, round_number, candidates, extra, groups)
    # kept pairs first, by rank, then those without one; candidates are by id already
    rank_P = np.where(selection.rank_P > 0, selection.rank_P, len(selection.rank_P) + 1)
    order = np.argsort(rank_P, kind="stable")
    kept = {name: writer.shards(name) for name in ("", READ)}
    read = _read_columns(context, round_number, candidates.columns | extra, groups)
    size = _shard_size(candidates)
    shards = [order[start : start + size] for start in range(0, max(len(order), 1), size)]
    if read:
        for index in sorted({*range(len(shards))} - kept[READ]):
            rows = pa.array(shards[index])
            taken = {name: pa.array(column).take(rows) for name, column in read.items()}
            writer.write_shard(index, pa.table({"pair_id": candidates.pair_id.take(rows), **taken}), READ)
    missing = sorted({*range(len(shards))} - kept[""])
    for group in _passes(missing, [_num_tokens(candidates, shard) for shard in shards]):
        texts = _Texts(context, round_number, candidates, np.concatenate([shards[index] for index in group]))
        for index in group:
            writer.write_shard(index, _rows(round_number, candidates, selection, texts, shards[index]))
        del texts  # before those of the next shards are read
    summary = selection.summary
    if summary.implicit_margin_all_zero:
        context.reporter.say(f"round {round_number}: every implicit margin is 0; {summary.metric} ranks without it")
    for note in summary.notes:
        context.reporter.say(f"round {round_number} select: {note}")
    context.commit(writer, started, SelectOutcome(summary=summary))


def _candidates(context: StageContext, number: int) -> _Candidates:
    store = context.store
    table = store.table(number, "pair", CANDIDATES)
    chosen_id, rejected_id = table["chosen_response_id"], table["rejected_response_id"]
    both_ids = pa.chunked_array([*chosen_id.chunks, *rejected_id.chunks], pa.string())
    of_responses = ["prompt_id", "response_index", "num_tokens"]
    row_both, sampled = find_rows(store.lazy_table(number, "sample"), "response_id", both_ids, of_responses)
    size = len(chosen_id)
    chosen_P, rejected_P = row_both[:size], row_both[size:]
    prompt_id = sampled["prompt_id"].slice(0, size)
    index = sampled["response_index"].cast(pa.string())
    pair_id = pc.binary_join_element_wise(prompt_id, f"r{number:03d}", index.slice(0, size), index.slice(size), "-")
    by_id = pc.sort_indices(pair_id)
    order = by_id.to_numpy()
    columns = {name: table[name].to_numpy()[order] for name in _OF_CANDIDATES}
    chosen_id, rejected_id = chosen_id.take(by_id), rejected_id.take(by_id)
    given_up = pa.array([*store.outcome(number, LogprobsOutcome).quarantined], pa.string())
    lost_P = pc.or_(*(pc.is_in(side, value_set=given_up) for side in (chosen_id, rejected_id))).to_numpy()
    tokens = sampled["num_tokens"].to_numpy()
    tokens_of = {"chosen": tokens[:size][order], "rejected": tokens[size:][order]}
    del index, both_ids
    logprobs = store.table(number, "logprobs", columns=["response_id", *_LOGPS])
    scored = logprobs["response_id"].combine_chunks()
    for side, ids in (("chosen", chosen_id), ("rejected", rejected_id)):
        found = pc.index_in(ids, value_set=scored)
        assert lost_P[found.is_null().to_numpy()].all(), "a response of a pair has neither log-probs nor a reason"
        for source in _LOGPS:
            values = np.append(logprobs[source].cast(pa.float64()).to_numpy(), np.nan)
            columns[f"{source}_{side}"] = values[found.fill_null(len(values) - 1).to_numpy()]
        columns[f"num_tokens_{side}"] = tokens_of[side]
    prompt_P = prompt_rows(context, number, pa.chunked_array([prompt_id.take(by_id)]))
    prompt_tokens = store.table(number, "prompts", columns=["num_prompt_tokens"])["num_prompt_tokens"]
    columns["num_prompt_tokens"] = prompt_tokens.to_numpy()[prompt_P]
    return _Candidates(
        pair_id.take(by_id), chosen_id, rejected_id, columns, chosen_P[order], rejected_P[order], prompt_P, lost_P
    )


def _shard_size(candidates: _Candidates) -> int:
    """Pairs in a shard."""
    num_pairs = len(candidates.pair_id)
    return max(min(SHARD_PAIRS, SHARD_TOKENS * num_pairs // max(_num_tokens(candidates, np.arange(num_pairs)), 1)), 1)


def _num_tokens(candidates: _Candidates, rows: Ints) -> int:
    """Tokens of the responses of these pairs, those that are in several pairs as often."""
    return sum(int(candidates.columns[f"num_tokens_{side}"][rows].sum()) for side in ("chosen", "rejected"))


def _passes(shards: Sequence[int], num_tokens: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive shards in groups of PASS_TOKENS at most, or of one shard."""
    group: list[int] = []
    for index in shards:
        if group and sum(num_tokens[other] for other in [*group, index]) > PASS_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _metric_columns(
    context: StageContext, number: int, candidates: _Candidates
) -> tuple[dict[str, Any], pa.Array | None]:
    """What only this round's metric reads: columns made for it, number columns of the prompts; and the pairs' groups."""
    ranking, settings = context.inputs.ranking, context.settings.selection
    columns: dict[str, Any] = {}
    for name in sorted(ranking.made_for(number)):
        columns[name] = metric_inputs.read(context, number, name, candidates.chosen_id, candidates.prompt_row_P)
    own = [name for name in ranking.prompt_columns if name in ranking.of_round(number).inputs]
    if not own and settings.group_column is None:
        return columns, None
    values: dict[str, list[float]] = {name: [] for name in own}
    groups: list[str | None] = []
    documents = context.store.table(number, "prompts", columns=["columns_json"])["columns_json"]
    for document in documents:
        prompt = json.loads(document.as_py())
        for name in own:
            value = prompt_number(prompt, name)
            values[name].append(np.nan if value is None else value)
        if settings.group_column is not None:
            groups.append(group_name(prompt, settings.group_column))
    columns |= {name: np.array(found)[candidates.prompt_row_P] for name, found in values.items()}
    if settings.group_column is None:
        return columns, None
    coded = pa.array(groups, pa.string()).dictionary_encode(null_encoding="encode")
    return columns, coded.take(pa.array(candidates.prompt_row_P)).cast(pa.string())


def _select(
    context: StageContext, number: int, candidates: _Candidates, extra: dict[str, Any], groups: pa.Array | None
) -> Selection:
    settings, training, ranking = context.settings.selection, context.settings.training, context.inputs.ranking
    metric = ranking.of_round(number)
    has_reference = not LOSSES[training.loss].reference_free
    columns = {
        name: values
        for name, values in candidates.columns.items()
        if has_reference or not name.startswith("reference_")
    }
    if groups is not None and (num_without := groups.null_count):
        context.reporter.say(
            f"round {number} select: {num_without} of {len(groups)} pairs have no {settings.group_column}: "
            "they form one group"
        )
    return select(
        PairPool(
            pair_id=candidates.pair_id,
            columns=columns | extra,
            drop_reason_P=with_reason(no_reasons(len(candidates.pair_id)), candidates.lost_P, QUARANTINED),
            group_P=None if groups is None else _codes(groups),
            prompt_P=candidates.prompt_row_P,
        ),
        metric=metric,
        keep=settings.keep,
        implicit_margin=settings.implicit_margin,
        weight=settings.weight,
        standardize=settings.standardize,
        beta=(settings.beta or training.beta) if settings.implicit_margin == "dpo" else None,
        seed=context.settings.seed + number,
        options=settings.options if metric is ranking.metric else {},
        allow_equal_reference=settings.implicit_margin == "dpo" and number == 1,
        quotas=_quotas(settings, groups),
        max_per_prompt=settings.max_per_prompt,
        keep_lowest=settings.keep_lowest,
    )


def _quotas(settings: SelectionConfig, groups: pa.Array | None) -> Quotas | None:
    """The quotas of the pairs' groups; None where there are none."""
    if groups is None or (settings.keep_per_group is None and settings.min_per_group is None):
        return None
    grouping = Grouping.of(pa.chunked_array([groups]))
    return Quotas(
        group_P=grouping.code_P, names=grouping.names, most=settings.keep_per_group, least=settings.min_per_group or 0
    )


def _codes(texts: pa.Array) -> Ints:
    """Equal numbers for equal texts, in the order of first appearance; null is a text like any other."""
    codes = texts.dictionary_encode(null_encoding="encode").indices
    return np.asarray(codes.to_numpy(), dtype=np.int64)


def _read_columns(
    context: StageContext, number: int, columns: Mapping[str, Any], groups: pa.Array | None
) -> dict[str, Any]:
    """The columns of READ, P values each. An embedding stays where it was made."""
    ranking = context.inputs.ranking
    needed = columns_needed(ranking.of_round(number), ranking.implicit_margin)
    read = {name: columns[name] for name in needed if name not in {*schema(Pair).names, EMBEDDING}}
    return read if groups is None else read | {"group": groups}


class _Texts:
    """Texts of the responses and messages of the prompts of some pairs, taken by row."""

    def __init__(self, context: StageContext, number: int, candidates: _Candidates, pairs: Ints) -> None:
        sides = (candidates.chosen_row_P[pairs], candidates.rejected_row_P[pairs])
        self._response_rows = np.unique(np.concatenate(sides))
        self._prompt_rows = np.unique(candidates.prompt_row_P[pairs])
        store = context.store
        self._responses = store.lazy_table(number, "sample").take(self._response_rows, ["text"])["text"]
        self._prompts = store.lazy_table(number, "prompts").take(self._prompt_rows, ["prompt_id", "messages"])

    def prompts(self, rows: Ints, column: str) -> pa.Array:
        """A column of prompts: prompt_id or messages."""
        return _take(self._prompts[column], np.searchsorted(self._prompt_rows, rows))

    def responses(self, rows: Ints) -> pa.Array:
        """Responses as conversations of one assistant turn."""
        texts = _take(self._responses, np.searchsorted(self._response_rows, rows))
        turns = pa.StructArray.from_arrays([pa.repeat("assistant", len(texts)), texts], ["role", "content"])
        return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1), pa.int32()), turns)


def _take(column: pa.ChunkedArray, rows: Ints) -> pa.Array:
    """These rows of a column, chunk by chunk: Arrow itself joins the chunks first, and fails where they pass 2 GB of text."""
    order = np.argsort(rows, kind="stable")
    starts = np.cumsum([0, *map(len, column.chunks)])
    cuts = np.searchsorted(rows[order], starts)
    pieces = [
        chunk.take(pa.array(rows[order[cut:end]] - start))
        for chunk, start, cut, end in zip(column.chunks, starts[:-1], cuts[:-1], cuts[1:], strict=True)
        if end > cut
    ]
    if not pieces:
        return pa.array([], column.type)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return pa.concat_arrays(pieces).take(pa.array(back))


def _rows(number: int, candidates: _Candidates, selection: Selection, texts: _Texts, rows: Ints) -> pa.Table:
    """These rows of the pairs table."""
    taken = pa.array(rows)
    prompt_P = candidates.prompt_row_P[rows]
    columns: dict[str, Any] = {
        "pair_id": candidates.pair_id.take(taken),
        "round": pa.repeat(number, len(rows)),
        "prompt_id": texts.prompts(prompt_P, "prompt_id"),
        "prompt": texts.prompts(prompt_P, "messages"),
        "chosen": texts.responses(candidates.chosen_row_P[rows]),
        "rejected": texts.responses(candidates.rejected_row_P[rows]),
        "chosen_response_id": candidates.chosen_id.take(taken),
        "rejected_response_id": candidates.rejected_id.take(taken),
        "rank": pa.array(selection.rank_P[rows], mask=selection.rank_P[rows] == 0),
        "kept": selection.kept_P[rows],
        "drop_reason": pa.array(selection.drop_reason_P.at(rows).tolist(), pa.string()),
    }
    outcome = {
        "explicit_margin": selection.explicit_margin_P,
        "implicit_margin": selection.implicit_margin_P,
        "alignment_potential": selection.alignment_potential_P,
        "metric_value": selection.metric_value_P,
    }
    for name, values in {**candidates.columns, **outcome}.items():
        columns[name] = pa.nulls(len(rows), pa.float64()) if values is None else _finite(values[rows])
    shape = schema(Pair)
    assert {*shape.names} <= {*columns}, "every column of the pairs table is made here"
    return pa.table({name: columns[name] for name in shape.names}).cast(shape)


def _finite(values: Floats | Ints) -> pa.Array:
    """Null where a value is not finite."""
    return pa.array(values, mask=~np.isfinite(values))
