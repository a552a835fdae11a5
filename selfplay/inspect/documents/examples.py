"""A few example rows, chosen by a seed: pairs that were kept and dropped, and one held-out prompt's answers round
by round (`report`). One or two columns are read to choose; of the rest only the chosen rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from selfplay.inspect.query.tables import rows_of
from selfplay.inspect.reading import finite
from selfplay.store.run import Store

_PAIR = [
    "pair_id", "prompt", "chosen", "rejected", "reward_chosen", "reward_rejected", "explicit_margin", "implicit_margin",
    "alignment_potential", "metric_value", "num_tokens_chosen", "num_tokens_rejected", "rank", "kept", "drop_reason",
]  # fmt: skip
_ANSWER = ["prompt_id", "mode", "response_index", "text", "num_tokens", "finish_reason", "reward", "gold_reward"]


def example_pairs(store: Store, round_number: int, seed: int, num: int) -> dict[str, list[dict[str, Any]]]:
    """Up to `num` kept and `num` dropped pairs of a round with a committed *select*, in the order of the table."""
    kept = store.table(round_number, "select", columns=["kept"])["kept"].to_numpy()
    generator = np.random.default_rng([seed, round_number])
    found = {}
    for name, wanted in (("kept", True), ("dropped", False)):
        rows = np.flatnonzero(kept == wanted)
        chosen = np.sort(generator.choice(rows, size=min(num, len(rows)), replace=False))
        found[name] = finite(store.lazy_table(round_number, "select").take(chosen, _PAIR).to_pylist())
    return found


def example_answers(store: Store, rounds: Sequence[int], seed: int, num: int) -> list[dict[str, Any]]:
    """Up to `num` held-out prompts: `prompt_id`, `messages`, and `answers` (round by round one sampled, one greedy where there
    is one). Empty without an evaluation. `rounds` have a committed *evaluate*."""
    rounds = [number for number in rounds if store.is_committed(number, "evaluate")]
    if not rounds:
        return []
    ids = pc.unique(store.table(rounds[0], "evaluate", columns=["prompt_id"])["prompt_id"]).to_pylist()
    generator = np.random.default_rng([seed, len(ids)])
    chosen = [ids[at] for at in sorted(generator.choice(len(ids), size=min(num, len(ids)), replace=False).tolist())]
    if not chosen:
        return []
    prompts = rows_of(store, 0, "prompts", "prompt_id", chosen, ["prompt_id", "messages"])
    messages = {row["prompt_id"]: row["messages"] for row in prompts}
    answers: dict[str, list[dict[str, Any]]] = {prompt_id: [] for prompt_id in chosen}
    for number in rounds:
        for row in rows_of(store, number, "evaluate", "prompt_id", chosen, _ANSWER):
            if row["response_index"] == 0:
                answers[row["prompt_id"]].append({"round": number, **finite(row)})
    return [
        {
            "prompt_id": prompt_id,
            "messages": messages[prompt_id],
            "answers": sorted(answers[prompt_id], key=lambda row: (row["mode"] == "greedy", row["round"])),
        }
        for prompt_id in chosen
    ]
