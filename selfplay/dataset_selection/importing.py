"""A dataset as the first stages of a run of one round: its prompts and its responses, with token ids where a policy needs them.

What the dataset has (rewards, log-probs, numbers of tokens) is committed as it is and not computed again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import DataError
from selfplay.core.outcomes import LogprobsOutcome, PromptsOutcome, SampleOutcome
from selfplay.core.records import Logprobs, Message, Prompt, Response, Reward, schema
from selfplay.dataset_selection.reading.dataset import OfflineDataset
from selfplay.dataset_selection.rendering import ResponseRenderer
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.score import score_outcome
from selfplay.selection.arrays import Ints, places_in_groups
from selfplay.store.spool import release_pages

ROUND = 1
NO_REWARD = "no_reward"
# Responses in a shard: what a kill may lose of their rendering.
SHARD_RESPONSES = 2048
_SIDES = ("chosen", "rejected")
_NUMBERS = ("reward", "policy_logp", "reference_logp", "num_tokens")


@dataclass(frozen=True, slots=True)
class Imported:
    """The rows of a dataset with texts as those of a round. `prompts`: `prompt_id source_file source_row messages
    columns_json?`; `responses`: `response_id prompt_id response_index text`, and `reward policy_logp reference_logp
    num_tokens drop_reason columns_json` where the dataset has them. `prompt_row_R` is the row of each response's prompt."""

    prompts: pa.Table
    responses: pa.Table
    prompt_row_R: Ints


def as_round(dataset: OfflineDataset) -> Imported:
    """The prompts and responses of a dataset with texts. The responses of ready-made pairs are the chosen ones, then the
    rejected ones, in the order of the pairs."""
    if dataset.pairs is None:
        assert dataset.prompts is not None and dataset.responses is not None
        row_R = pc.index_in(dataset.responses["prompt_id"], value_set=dataset.prompts["prompt_id"].combine_chunks())
        return Imported(dataset.prompts, dataset.responses, np.asarray(row_R.to_numpy(), dtype=np.int64))
    pairs = dataset.pairs
    coded = pairs["prompt_id"].combine_chunks().dictionary_encode()
    code_P = np.asarray(coded.indices.to_numpy(), dtype=np.int64)
    _, first = np.unique(code_P, return_index=True)
    names = ["prompt_id", "source_file", "source_row", "prompt", *_present(pairs, ("columns_json",))]
    prompts = pairs.select(names)
    if len(first) < len(code_P):  # where each pair has its own prompt, its texts are not copied
        prompts = prompts.take(pa.array(first))
    prompts = prompts.rename_columns(["messages" if name == "prompt" else name for name in names])
    code_R = np.concatenate([code_P, code_P])
    index_R = places_in_groups(code_R)
    sides = [_side(pairs, side, index_R[at * len(code_P) :][: len(code_P)]) for at, side in enumerate(_SIDES)]
    return Imported(prompts, pa.concat_tables(sides), code_R)


def _side(pairs: pa.Table, side: str, index_P: Ints) -> pa.Table:
    columns: dict[str, Any] = {
        "response_id": pc.binary_join_element_wise(pairs["pair_id"], side, "/"),
        "prompt_id": pairs["prompt_id"],
        "response_index": pa.array(index_P),
        "text": pc.struct_field(pc.list_flatten(pairs[side]), "content"),
    }
    columns |= {name: pairs[f"{name}_{side}"] for name in _NUMBERS if f"{name}_{side}" in pairs.column_names}
    return pa.table(columns | {name: pairs[name] for name in _present(pairs, ("columns_json",))})


def _present(table: pa.Table, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in table.column_names]


def import_prompts(
    context: StageContext, imported: Imported, renderer: ResponseRenderer | None, notes: list[str]
) -> None:
    """Commit stage *prompts*. A prompt that the policy's chat template cannot write has no token ids."""
    if context.store.is_committed(ROUND, "prompts"):
        return
    started, writer = time.monotonic(), context.writer(ROUND, "prompts")
    prompts = imported.prompts
    token_ids: list[list[int]] = []
    if renderer is not None:
        for messages in prompts["messages"].to_pylist():
            try:
                token_ids.append(renderer.prompt(messages))
            except DataError as error:
                token_ids.append([])
                notes.append(error.message)
    ids = pa.array(token_ids or [[]] * prompts.num_rows, pa.list_(pa.int32()))
    columns = {
        "columns_json": pa.array(["{}"] * prompts.num_rows),
        **{name: prompts[name] for name in prompts.column_names},
        "prompt_token_ids": ids,
        "num_prompt_tokens": pc.list_value_length(ids),
    }
    if not writer.shards():
        writer.write_shard(0, shaped(Prompt, columns, prompts.num_rows))
    outcome = PromptsOutcome(
        num_prompts=prompts.num_rows, num_admitted=prompts.num_rows, drop_reasons={}, num_bad_rows=0, bad_rows=[],
        prompt_tokens=int(pc.sum(columns["num_prompt_tokens"]).as_py() or 0),
    )  # fmt: skip
    context.commit(writer, started, outcome)


def import_responses(
    context: StageContext, imported: Imported, renderer: ResponseRenderer | None, notes: list[str]
) -> None:
    """Commit stage *sample* with the dataset's responses. One that the policy's template or tokenizer cannot write has no token
    ids."""
    if context.store.is_committed(ROUND, "sample"):
        return
    started, writer = time.monotonic(), context.writer(ROUND, "sample")
    prompts = context.store.table(ROUND, "prompts", columns=["messages", "prompt_token_ids"])
    kept, num = writer.shards(), imported.responses.num_rows
    if renderer is not None:
        progress = context.reporter.begin("tokens", num, min(len(kept) * SHARD_RESPONSES, num), "responses")
    for index, start in enumerate(range(0, num, SHARD_RESPONSES)):
        if index in kept:
            continue
        context.stop.check()
        rows = imported.responses.slice(start, SHARD_RESPONSES)
        columns: dict[str, Any] = {name: rows[name] for name in rows.column_names if name != "drop_reason"}
        if renderer is not None:
            prompt_R = imported.prompt_row_R[start : start + SHARD_RESPONSES]
            columns["token_ids"] = _rendered(renderer, prompts, prompt_R, rows["text"].to_pylist(), notes)
            columns["num_tokens"] = pc.list_value_length(columns["token_ids"])
            progress.advance(rows.num_rows)
        table = shaped(Response, {"finish_reason": pa.array(["stop"] * rows.num_rows), **columns}, rows.num_rows)
        if "columns_json" in rows.column_names:
            table = table.append_column("columns_json", rows["columns_json"])
        writer.write_shard(index, table)
        release_pages()
    if renderer is not None:
        progress.end()
    lengths = [writer.read_shard(index)["num_tokens"] for index in sorted(writer.shards())]
    outcome = SampleOutcome(
        num_prompts=imported.prompts.num_rows, num_responses=num, num_tokens=sum(pc.sum(one).as_py() or 0 for one in lengths),
        num_truncated=0, num_duplicates=0, drop_reasons={}, quarantined={}, policy_digest="", weight_changes=[], engines=[],
        num_tokens_sampled=0, sampling_seconds=0.0, num_mixed=0, stop_token_ids=list(context.inputs.stop_token_ids),
    )  # fmt: skip
    context.commit(writer, started, outcome)


def _rendered(
    renderer: ResponseRenderer, prompts: pa.Table, prompt_R: Ints, texts: Sequence[str], notes: list[str]
) -> pa.Array:
    used, place_R = np.unique(prompt_R, return_inverse=True)
    asked: list[dict[str, Any]] = prompts.take(pa.array(used)).to_pylist()
    found = []
    for place, text in zip(place_R.tolist(), texts, strict=True):
        messages: list[Message] = asked[place]["messages"]
        prompt_ids: list[int] = asked[place]["prompt_token_ids"]
        ids: list[int] = []
        if prompt_ids:
            try:
                ids = renderer.response(messages, prompt_ids, text)
            except DataError as error:
                notes.append(error.message)
        found.append(ids)
    return pa.array(found, pa.list_(pa.int32()))


def import_rewards(context: StageContext, imported: Imported) -> None:
    """Commit stage *score* with the dataset's rewards, or without any."""
    started, writer = time.monotonic(), context.writer(ROUND, "score")
    responses = imported.responses
    reward = pa.nulls(responses.num_rows, pa.float64())
    if "reward" in responses.column_names:
        reward = _finite_or_null(responses["reward"])
    reason = pc.if_else(pc.is_null(reward), NO_REWARD, pa.scalar(None, pa.string()))
    table = shaped(
        Reward, {"response_id": responses["response_id"], "reward": reward, "drop_reason": reason}, responses.num_rows
    )
    if not writer.shards():
        writer.write_shard(0, table)
    outcome = score_outcome(table, combined=None, gold_drop_reasons={}, gold_lacks=[])
    context.commit(writer, started, outcome)


def import_logprobs(imported: Imported) -> pa.Table:
    """The dataset's log-probs as rows of stage *logprobs*: none where it has not both those of the policy and the lengths."""
    responses, shape = imported.responses, schema(Logprobs)
    if not {"policy_logp", "num_tokens"} <= {*responses.column_names}:
        return shape.empty_table()
    names = _present(responses, ("response_id", "policy_logp", "reference_logp", "num_tokens"))
    columns = {name: responses[name] for name in names}
    columns["policy_logp"] = _finite_or_null(columns["policy_logp"])
    table = shaped(Logprobs, columns, responses.num_rows)
    return table.filter(pc.is_valid(table["policy_logp"]))


def logprobs_outcome(table: pa.Table, made: dict[str, dict[str, Any]], quarantined: dict[str, str]) -> LogprobsOutcome:
    """What is recorded of log-probs that are the dataset's own."""
    return LogprobsOutcome(
        num_responses=table.num_rows, quarantined=quarantined, policy_digest="", reference_digest=None,
        reference_is_policy=False, made_for_metric=made, source="dataset",
    )  # fmt: skip


def _finite_or_null(column: pa.ChunkedArray) -> pa.Array:
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    return pa.array(values, mask=~np.isfinite(values))


def shaped(record: type, columns: Mapping[str, Any], num_rows: int) -> pa.Table:
    """A table with the columns of a record class. One that is not given is `round`, or null: a dataset lacks what only a run
    has (seeds, token ids), also where a run's record cannot be without it."""
    shape = pa.schema([field.with_nullable(True) for field in schema(record)])
    found: dict[str, Any] = {field.name: pa.nulls(num_rows, field.type) for field in shape}
    if "round" in found:
        found["round"] = pa.repeat(pa.scalar(ROUND, pa.int64()), num_rows)
    return pa.table(found | {name: columns[name] for name in shape.names if name in columns}).cast(shape)
