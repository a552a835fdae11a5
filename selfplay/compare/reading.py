"""The numbers of one run of a comparison, round by round, from its committed tables and what its stages said of themselves."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.compare.statistics import Labels, labels, shares, standardized_gain
from selfplay.core.errors import ConfigError
from selfplay.core.evaluation_statistics import prompt_means
from selfplay.core.outcomes import TrainOutcome
from selfplay.inspect.documents.rounds import round_summary
from selfplay.store.run import Store

GOLD, REWARD = "gold_reward", "reward"


class RunReader:
    """Reads one run. What it reads is committed and never changes, so it is read once."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder)

    def rounds(self) -> list[int]:
        """Rounds with a committed evaluation."""
        return [number for number in self.store.rounds() if self.store.is_committed(number, "evaluate")]

    @functools.cache  # noqa: B019 - the reader lives as long as its numbers are wanted
    def evaluated(self, number: int, mode: str, column: str) -> dict[str, float]:
        """The evaluation after a round: prompt -> mean of the column over its responses of that mode."""
        table = self.store.table(number, "evaluate", columns=["prompt_id", "mode", column])
        table = table.filter(pc.equal(table["mode"], mode))
        return prompt_means(table["prompt_id"], table[column].to_numpy())

    def row(self, number: int) -> dict[str, Any]:
        """The round's own numbers; null is what it does not have."""
        outcomes = self.store.outcomes(number)
        train, evaluation = outcomes.get(TrainOutcome), outcomes.evaluation()
        summary = round_summary(self.store, number, outcomes)
        row: dict[str, Any] = {
            "gold_mean": summary.eval_gold_mean,
            "gold_low": summary.eval_gold_ci_low,
            "gold_high": summary.eval_gold_ci_high,
            "gold_greedy_mean": summary.eval_gold_greedy_mean,
            "reward_mean": summary.eval_reward_mean,
            "reward_greedy_mean": evaluation.eval_reward_greedy_mean if evaluation else None,
            "num_tokens_mean": summary.eval_num_tokens_mean,
            "truncated_fraction": summary.eval_truncated_fraction,
            "distinct_fraction": summary.eval_distinct_fraction,
            "distinct_2": evaluation.eval_distinct_2 if evaluation else None,
            "optimizer_steps": summary.optimizer_steps,
            "num_pairs": summary.num_pairs,
            "num_kept": summary.num_kept,
            "seconds_train": train.training.seconds if train and train.training else None,
        }
        reward, gold = (
            standardized_gain(self.evaluated(number, "sampled", column), self.evaluated(0, "sampled", column))
            for column in (REWARD, GOLD)
        )
        row["reward_gain"], row["gold_gain"] = reward, gold
        row["over_optimization"] = None if reward is None or gold is None else reward - gold
        found = self.labels(number) if number else None
        row["wrong_labels"], row["tied_labels"] = (found.wrong, found.tied) if found else (None, None)
        return row

    @functools.cache  # noqa: B019
    def pairs(self, number: int) -> pa.Table:
        """The round's pairs: ids and whether they are kept."""
        columns = ["pair_id", "prompt_id", "chosen_response_id", "rejected_response_id", "kept"]
        return self.store.table(number, "select", columns=columns)

    def kept(self, number: int) -> pa.Array:
        """Ids of the pairs kept in a round."""
        table = self.pairs(number)
        return table.filter(table["kept"])["pair_id"].combine_chunks()

    def labels(self, number: int) -> Labels | None:
        """What the judge says of the kept pairs; None where it did not judge training responses."""
        table = self.pairs(number)
        kept = table.filter(table["kept"])
        scored = self.store.table(number, "score", columns=["response_id", GOLD])
        if scored[GOLD].null_count == scored.num_rows:
            return None
        gold, ids = scored[GOLD].to_numpy(), scored["response_id"].combine_chunks()
        rows = [pc.index_in(kept[f"{side}_response_id"], value_set=ids) for side in ("chosen", "rejected")]
        return labels(*(gold[row.to_numpy()] for row in rows))

    def group_shares(self, number: int, column: str) -> tuple[dict[str, float], dict[str, float]]:
        """Share of each group, by the prompts' own column: among the kept pairs, and among all pairs. Raises ConfigError
        where prompts have no such column."""
        prompts = self.store.table(number, "prompts", columns=["prompt_id", "columns_json"])
        names = []
        for text in prompts["columns_json"]:
            columns = json.loads(text.as_py())
            if column not in columns:
                raise ConfigError(
                    f"--by {column}: the prompts have no such column",
                    f"The prompts have: {', '.join(sorted(columns)) or 'no other columns'}.",
                )
            names.append(str(columns[column]))
        table = self.pairs(number)
        row = pc.index_in(table["prompt_id"], value_set=prompts["prompt_id"].combine_chunks())
        group = pa.array(names, pa.string()).take(row.combine_chunks())
        return shares(group.filter(table["kept"].combine_chunks())), shares(group)
