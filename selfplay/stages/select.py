"""Stage *select*: margins, alignment potential, ranks, and which pairs are kept. The table is complete: TRL and
`datasets.load_dataset` read the folder as it is.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from selfplay.records import Pair, Prompt, from_table, to_table
from selfplay.selection.lengths import too_long_for_training
from selfplay.selection.reasons import TOO_LONG_FOR_TRAINING, give_reason, no_reasons
from selfplay.selection.selecting import PairPool, Selection, select
from selfplay.stages.context import Context
from selfplay.stages.pair import CANDIDATES


def run(context: Context, round_number: int) -> None:
    """Write the pairs table of a round, kept pairs and dropped ones."""
    started = time.monotonic()
    reads = [(round_number, stage) for stage in ("prompts", "sample", "score", "pair", "logprobs")]
    writer = context.writer(round_number, "select", reads)
    prompts = {row.prompt_id: row for row in from_table(Prompt, context.store.table(round_number, "prompts"))}
    responses = _responses(context, round_number)
    candidates = context.store.table(round_number, "pair", CANDIDATES).to_pylist()
    pairs = [
        _pair(round_number, prompts, responses[row["chosen_response_id"]], responses[row["rejected_response_id"]])
        for row in candidates
    ]
    pairs.sort(key=lambda pair: pair.pair_id)
    selection = _select(context, round_number, pairs, prompts)
    ranked = [_with_outcome(pair, selection, row) for row, pair in enumerate(pairs)]
    if not writer.shards():
        writer.write_shard(
            0, to_table(Pair, sorted(ranked, key=lambda pair: (pair.rank is None, pair.rank, pair.pair_id)))
        )
    summary = dataclasses.asdict(selection.summary)
    if summary["implicit_margin_all_zero"]:
        context.reporter.say(f"round {round_number}: every implicit margin is 0; {summary['metric']} ranks without it")
    context.commit(writer, started, {"num_pairs": len(pairs), **summary})


def _responses(context: Context, number: int) -> dict[str, dict[str, Any]]:
    """The paired responses of a round by id: text, token count, reward, log-probs."""
    logprobs = {row["response_id"]: row for row in context.store.table(number, "logprobs").to_pylist()}
    rewards = context.store.table(number, "score", columns=["response_id", "reward"]).to_pylist()
    columns = ["response_id", "prompt_id", "response_index", "text", "num_tokens"]
    rows = context.store.table(number, "sample", columns=columns).to_pylist()
    return {
        row["response_id"]: {**row, **reward, **logprobs[row["response_id"]]}
        for row, reward in zip(rows, rewards, strict=True)
        if row["response_id"] in logprobs
    }


def _pair(round_number: int, prompts: Mapping[str, Prompt], chosen: dict[str, Any], rejected: dict[str, Any]) -> Pair:
    prompt_id = chosen["prompt_id"]
    return Pair(
        pair_id=f"{prompt_id}-r{round_number:03d}-{chosen['response_index']}-{rejected['response_index']}",
        round=round_number,
        prompt_id=prompt_id,
        prompt=prompts[prompt_id].messages,
        chosen=[{"role": "assistant", "content": chosen["text"]}],
        rejected=[{"role": "assistant", "content": rejected["text"]}],
        chosen_response_id=chosen["response_id"],
        rejected_response_id=rejected["response_id"],
        reward_chosen=chosen["reward"],
        reward_rejected=rejected["reward"],
        explicit_margin=chosen["reward"] - rejected["reward"],
        policy_logp_chosen=chosen["policy_logp"],
        policy_logp_rejected=rejected["policy_logp"],
        reference_logp_chosen=chosen["reference_logp"],
        reference_logp_rejected=rejected["reference_logp"],
        num_tokens_chosen=chosen["num_tokens"],
        num_tokens_rejected=rejected["num_tokens"],
    )


def _select(context: Context, round_number: int, pairs: list[Pair], prompts: Mapping[str, Prompt]) -> Selection:
    settings, training = context.config.selection, context.config.training
    metric: str = settings.metric
    if round_number == 1 and settings.form == "dpo":
        assert settings.first_round_metric is not None  # the config requires it
        metric = settings.first_round_metric

    def column(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array(
            [math.nan if (value := getattr(pair, name)) is None else value for pair in pairs], dtype=np.float64
        )

    chosen = np.array([pair.num_tokens_chosen for pair in pairs], dtype=np.int64)
    rejected = np.array([pair.num_tokens_rejected for pair in pairs], dtype=np.int64)
    prompt = np.array([prompts[pair.prompt_id].num_prompt_tokens for pair in pairs], dtype=np.int64)
    long = too_long_for_training(prompt, chosen, rejected, context.inputs.max_length)
    has_reference = training.loss != "simpo"
    pool = PairPool(
        pair_id=[pair.pair_id for pair in pairs],
        reward_chosen_P=column("reward_chosen"),
        reward_rejected_P=column("reward_rejected"),
        num_tokens_chosen_P=chosen,
        num_tokens_rejected_P=rejected,
        policy_logp_chosen_P=column("policy_logp_chosen"),
        policy_logp_rejected_P=column("policy_logp_rejected"),
        reference_logp_chosen_P=column("reference_logp_chosen") if has_reference else None,
        reference_logp_rejected_P=column("reference_logp_rejected") if has_reference else None,
        drop_reason_P=give_reason(no_reasons(len(pairs)), long, TOO_LONG_FOR_TRAINING),
    )
    return select(
        pool,
        metric=metric,
        keep=settings.keep,
        form=settings.form,
        weight=settings.weight,
        standardize=settings.standardize,
        beta=(settings.beta or training.beta) if settings.form == "dpo" else None,
        seed=context.config.seed + round_number,
        allow_equal_reference=settings.form == "dpo" and round_number == 1,
    )


def _with_outcome(pair: Pair, selection: Selection, row: int) -> Pair:
    def value(column: Any) -> float | None:
        return None if column is None or not math.isfinite(column[row]) else float(column[row])

    rank = int(selection.rank_P[row])
    return dataclasses.replace(
        pair,
        implicit_margin=value(selection.implicit_margin_P),
        alignment_potential=value(selection.alignment_potential_P),
        metric_value=value(selection.metric_value_P),
        rank=rank if rank > 0 else None,
        kept=bool(selection.kept_P[row]),
        drop_reason=selection.drop_reason_P[row],
    )
