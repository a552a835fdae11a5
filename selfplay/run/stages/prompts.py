"""Stage *prompts*: which prompts this round asks, as token ids, and which rows cannot be asked and why.

Round 0 has the held-out prompts of the evaluation. Every row of the round's slice is in the table: one with a `drop_reason` is
not sampled from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from selfplay.core.errors import DataError
from selfplay.core.outcomes import InvalidRow, PromptsOutcome
from selfplay.core.records import Prompt, from_table, to_table
from selfplay.inputs.prompts import Prompts, RawPrompt
from selfplay.run.stages.context import StageContext, derive_seed

TOO_LONG = "too_long_for_context"


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
    rows = _render(context, round_number, raw, limit)
    reasons = Counter(row.drop_reason for row in rows if row.drop_reason)
    if rows and len(rows) == sum(reasons.values()):
        raise DataError(
            f"round {round_number}: none of the {len(rows)} prompts can be used: {dict(reasons)}",
            "Shorten max_tokens, or look at the prompts' length.",
        )
    if reasons:
        context.reporter.say(
            f"round {round_number}: {sum(reasons.values())} of {len(rows)} prompts dropped: {dict(reasons)}"
        )
    if not writer.shards():
        writer.write_shard(0, to_table(Prompt, sorted(rows, key=lambda row: row.prompt_id)))
    outcome = PromptsOutcome(
        num_prompts=len(rows),
        num_admitted=len(rows) - sum(reasons.values()),
        drop_reasons=dict(reasons),
        num_bad_rows=bad.count if bad else 0,
        bad_rows=[InvalidRow(row.file, row.row, row.detail) for row in (bad.examples if bad else ())],
        prompt_tokens=sum(row.num_prompt_tokens for row in rows),
    )
    context.commit(writer, started, outcome)


def training_slice(context: StageContext, round_number: int) -> Sequence[RawPrompt]:
    """The round's prompts: slices of one seeded order, so that more rounds change nothing in earlier ones."""
    settings = context.settings.prompts
    assert settings is not None, "a run has a source of prompts"
    prompts = context.inputs.prompts.prompts
    ordered = _seeded_order(prompts, context.settings.seed, "prompts")
    start = 0 if settings.order == "same" else (round_number - 1) * settings.per_round
    return prompts.take(ordered[start : start + settings.per_round])


def evaluation_slice(context: StageContext) -> Sequence[RawPrompt]:
    """The held-out prompts, the same in every round."""
    if context.settings.evaluation is None or context.inputs.evaluation is None:
        return []
    prompts = context.inputs.evaluation.prompts
    ordered = _seeded_order(prompts, context.settings.seed, "evaluation")
    return prompts.take(ordered[: context.settings.evaluation.num_prompts])


def admitted(context: StageContext, round_number: int) -> list[Prompt]:
    """Prompts of a round that are sampled from, by id."""
    rows: list[Prompt] = from_table(Prompt, context.store.table(round_number, "prompts"))
    return [row for row in rows if row.drop_reason is None]


def _seeded_order(prompts: Prompts, seed: int, purpose: str) -> list[int]:
    """The rows of the prompts in the order of a run's seed."""
    ids = prompts.table["prompt_id"].to_pylist()
    return sorted(range(len(ids)), key=lambda row: (derive_seed(seed, purpose, ids[row]), ids[row]))


def _render(context: StageContext, round_number: int, raw: Sequence[RawPrompt], limit: int) -> list[Prompt]:
    rows = []
    for prompt in raw:
        token_ids: list[int] = []
        reason: str | None = None
        try:
            token_ids = context.inputs.renderer.prompt(prompt.messages)
        except DataError as error:
            reason = f"template_refused: {error.message}"[:200]
        if reason is None and not token_ids:
            reason = "empty_after_rendering"
        if len(token_ids) > limit:
            reason = TOO_LONG
        rows.append(
            Prompt(
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
        )
    return rows
