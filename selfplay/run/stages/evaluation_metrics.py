"""The numbers of one evaluation, from its table and those of round 0 and the round before (stage *evaluate*).

Prompts are the unit: intervals are 95 % bootstrap over them. Win-rates compare sampled responses of the same prompt, judged by
the gold reward where there is one, else by the reward.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core import evaluation_statistics as statistics
from selfplay.core.outcomes import EvaluatedPart, Evaluation
from selfplay.core.records import part_columns


def summarize(
    table: pa.Table,
    initial: pa.Table | None,
    previous: pa.Table | None,
    seed: int,
    *,
    gold: bool,
    gold_drop_reasons: dict[str, int],
) -> Evaluation:
    """Numbers of an evaluation table (`EvaluationResponse` rows); for round 0 `initial` and `previous` are None.

    `gold`: whether the run has a gold judge, which then decides comparisons, also where it failed for some responses.
    """
    sampled = table.filter(pc.equal(table["mode"], "sampled"))
    greedy = table.filter(pc.equal(table["mode"], "greedy"))
    judge = "gold_reward" if gold else "reward"
    rewards, golds = _mean(sampled, "reward", seed), _mean(sampled, "gold_reward", seed)
    distinct = {n: statistics.distinct_n((row.as_py() for row in sampled["token_ids"]), n) for n in (1, 2, 3)}
    parts = {
        name.removeprefix("reward_"): EvaluatedPart(
            _mean(sampled, name, seed).get("mean"), _mean(greedy, name, seed).get("mean")
        )
        for name in part_columns(table.column_names)
    }
    return Evaluation(
        eval_judge="gold" if gold else "reward",
        eval_num_prompts=len(sampled["prompt_id"].unique()),
        eval_reward_mean=rewards.get("mean"),
        eval_reward_ci_low=rewards.get("ci_low"),
        eval_reward_ci_high=rewards.get("ci_high"),
        eval_reward_greedy_mean=_mean(greedy, "reward", seed).get("mean"),
        eval_num_unscored=table.num_rows - int(pc.count(table["reward"]).as_py()),
        eval_num_tokens_mean=pc.mean(sampled["num_tokens"]).as_py(),
        eval_truncated_fraction=pc.mean(pc.not_equal(sampled["finish_reason"], "stop")).as_py(),
        eval_distinct_fraction=len(pc.unique(sampled["text"])) / len(sampled) if len(sampled) else None,
        eval_distinct_1=distinct[1],
        eval_distinct_2=distinct[2],
        eval_distinct_3=distinct[3],
        eval_reward_parts=parts or None,
        eval_num_ungolded=table.num_rows - int(pc.count(table["gold_reward"]).as_py()) if gold else 0,
        eval_gold_mean=golds.get("mean"),
        eval_gold_ci_low=golds.get("ci_low"),
        eval_gold_ci_high=golds.get("ci_high"),
        eval_gold_greedy_mean=_mean(greedy, "gold_reward", seed).get("mean"),
        eval_gold_drop_reasons=gold_drop_reasons,
        **_against("initial", judge, sampled, initial, seed),
        **_against("previous", judge, sampled, previous, seed),
    )


def _by_prompt(table: pa.Table, column: str) -> statistics.ByPrompt:
    return statistics.by_prompt(table["prompt_id"], table[column].to_numpy())


def _mean(table: pa.Table, column: str, seed: int) -> dict[str, float]:
    found = statistics.mean_over_prompts(_by_prompt(table, column), seed=seed)
    return {"mean": found.mean, "ci_low": found.ci_low, "ci_high": found.ci_high} if found else {}


def _against(name: str, judge: str, sampled: pa.Table, other: pa.Table | None, seed: int) -> dict[str, Any]:
    keys = (
        f"eval_win_rate_vs_{name}",
        f"eval_gain_vs_{name}",
        f"eval_gain_vs_{name}_ci_low",
        f"eval_gain_vs_{name}_ci_high",
    )
    if other is None:
        return dict.fromkeys(keys)
    ours, others = _by_prompt(sampled, judge), _by_prompt(other.filter(pc.equal(other["mode"], "sampled")), judge)
    wins = statistics.paired_win_rate(ours, others, seed=seed)
    gain = statistics.paired_difference(ours, others, seed=seed)
    values = (wins.mean if wins else None, *((gain.mean, gain.ci_low, gain.ci_high) if gain else (None, None, None)))
    return dict(zip(keys, values, strict=True))
