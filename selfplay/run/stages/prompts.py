"""Stage *prompts*: which prompts this round asks, as token ids, and which rows cannot be asked and why.

Round 0 has the held-out prompts of the evaluation. Every row of the round's slice is in the table: one with a `drop_reason` is
not sampled from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import DataError
from selfplay.core.outcomes import InvalidRow, PromptsOutcome
from selfplay.core.protocols import SampleRequest
from selfplay.core.records import Prompt, to_table
from selfplay.execution.sharding import LazyItems
from selfplay.inputs.prompts import Prompts
from selfplay.run.stages.context import StageContext, derive_seed
from selfplay.run.stages.rows import count_values
from selfplay.selection.arrays import Ints
from selfplay.store.lazy_table import RowReader

TOO_LONG = "too_long_for_context"
OUTSIDE = "outside_of_vocabulary"
# Prompts that are Python objects at a time.
BLOCK_PROMPTS = 10_000


def run(context: StageContext, round_number: int) -> None:
    """Write the prompts table of a round."""
    started = time.monotonic()
    writer = context.writer(round_number, "prompts")
    if round_number == 0:
        raw = evaluation_slice(context)
        limit = context.inputs.evaluation_prompt_limit
        bad = context.inputs.evaluation.bad_rows if context.inputs.evaluation else None
    else:
        raw = training_slice(context, round_number)
        limit = context.inputs.prompt_limit
        bad = context.inputs.prompts.bad_rows
    by_id = raw.take(pc.sort_indices(raw.table["prompt_id"]).to_numpy())
    blocks = [by_id[start : start + BLOCK_PROMPTS] for start in range(0, max(len(by_id), 1), BLOCK_PROMPTS)]
    table = pa.concat_tables([to_table(Prompt, _render(context, round_number, block, limit)) for block in blocks])
    reasons = count_values(table["drop_reason"])
    if table.num_rows and table.num_rows == sum(reasons.values()):
        raise DataError(
            f"round {round_number}: none of the {table.num_rows} prompts can be used: {reasons}",
            "Lower sampling.max_tokens, or check the length of the prompts.",
        )
    if reasons:
        context.reporter.say(
            f"round {round_number}: {sum(reasons.values())} of {table.num_rows} prompts dropped: {reasons}"
        )
    for heading, count in sorted(Counter(found for block in blocks for found in _headings(context, block)).items()):
        context.reporter.say(
            f"round {round_number}: {count} of {table.num_rows} prompts have a line that begins with {heading!r}, with which the "
            "chat template begins a turn: the policy cannot tell it from the template's own"
        )
    if not writer.shards():
        writer.write_shard(0, table)
    outcome = PromptsOutcome(
        num_prompts=table.num_rows,
        num_admitted=table.num_rows - sum(reasons.values()),
        drop_reasons=reasons,
        num_bad_rows=bad.count if bad else 0,
        bad_rows=[InvalidRow(row.file, row.row, row.detail) for row in (bad.examples if bad else ())],
        prompt_tokens=pc.sum(table["num_prompt_tokens"]).as_py() or 0,
    )
    context.commit(writer, started, outcome)


def training_slice(context: StageContext, round_number: int) -> Prompts:
    """The round's prompts: slices of one seeded order, so that more rounds change nothing in earlier ones."""
    settings = context.settings.prompts
    assert settings is not None, "a run has a source of prompts"
    prompts = context.inputs.prompts.prompts
    ordered = _seeded_order(prompts, context.settings.seed, "prompts")
    start = 0 if settings.order == "same" else (round_number - 1) * settings.per_round
    return prompts.take(ordered[start : start + settings.per_round])


def evaluation_slice(context: StageContext) -> Prompts:
    """The held-out prompts, the same in every round."""
    if context.settings.evaluation is None or context.inputs.evaluation is None:
        return Prompts.none()
    prompts = context.inputs.evaluation.prompts
    ordered = _seeded_order(prompts, context.settings.seed, "evaluation")
    return prompts.take(ordered[: context.settings.evaluation.num_prompts])


def sample_requests(context: StageContext, round_number: int, *purpose: object) -> LazyItems[SampleRequest]:
    """A request for each prompt of a round that is sampled from, by id. Its seed is derived from the run's seed, the purpose and
    the prompt's id alone."""
    store, seed = context.store, context.settings.seed
    dropped = store.table(round_number, "prompts", columns=["drop_reason"])["drop_reason"]
    rows = np.flatnonzero(dropped.is_null())
    reader = RowReader(store.lazy_table(round_number, "prompts"), ["prompt_id", "prompt_token_ids"])

    def make(start: int, stop: int) -> list[SampleRequest]:
        found = reader.take(rows[start:stop])
        asked = zip(found["prompt_id"].to_pylist(), found["prompt_token_ids"].to_pylist(), strict=True)
        return [SampleRequest(name, token_ids, derive_seed(seed, *purpose, name)) for name, token_ids in asked]

    return LazyItems(len(rows), make)


def _seeded_order(prompts: Prompts, seed: int, purpose: str) -> Ints:
    """The rows of the prompts in the order of a run's seed."""
    ids = prompts.table["prompt_id"]
    seeds = [derive_seed(seed, purpose, name.as_py()) for name in ids]
    order = pc.sort_indices(pa.table({"seed": seeds, "id": ids}), [("seed", "ascending"), ("id", "ascending")])
    return np.asarray(order.to_numpy(), dtype=np.int64)


def _headings(context: StageContext, prompts: Prompts) -> Iterator[str]:
    """The headings of the chat template that lines of prompts begin with: one of each prompt that has any."""
    control = context.inputs.renderer.control
    if control.headings:
        yield from filter(None, (control.heading_in(prompt.messages) for prompt in prompts))


def _render(context: StageContext, round_number: int, raw: Prompts, limit: int) -> Iterator[Prompt]:
    for prompt in raw:
        token_ids: list[int] = []
        reason: str | None = None
        try:
            token_ids = context.inputs.renderer.prompt(prompt.messages)
        except DataError as error:
            reason = f"template_refused: {error.message}"[:200]
        if token_ids and max(token_ids) >= context.inputs.policy_info.vocab_size:
            reason = OUTSIDE
        if reason is None and not token_ids:
            reason = "empty_after_rendering"
        if len(token_ids) > limit:
            reason = TOO_LONG
        yield Prompt(
            prompt_id=prompt.prompt_id,
            round=round_number,
            source_file=prompt.file,
            source_row=prompt.row,
            messages=prompt.messages,
            prompt_token_ids=token_ids,
            num_prompt_tokens=len(token_ids),
            columns_json=prompt.columns_json,
            drop_reason=reason,
        )
