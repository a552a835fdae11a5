"""Rewards of pairs and of responses, where the dataset has none: computed on workers and kept shard by shard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from selfplay.core.errors import BackendError
from selfplay.core.protocols import ScoreItem
from selfplay.dataset_selection.computing import Column, Computing, check_rows, floats, rows_of
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import cut
from selfplay.selection.arrays import Ints
from selfplay.selection.reasons import DropReasons

_REWARDS = pa.schema([("response_id", pa.string()), ("reward", pa.float64()), ("drop_reason", pa.string())])


def score(
    computing: Computing, ids: Sequence[str], items: Callable[[Sequence[int]], list[ScoreItem]]
) -> tuple[Column, DropReasons]:
    """Rewards of R responses (NaN where there is none) and why. `items` makes what the scorer is given of some rows."""
    writer = computing.work.stage("rewards")
    # a shard holds as many responses as a shard of pairs does
    shards = cut(range(len(ids)), 2 * computing.settings.shard_size)
    table = computing.run(
        writer, "scorer", "score", shards,
        lambda shard: (items(shard),),
        lambda _, result: _scored(computing, result),
        title="rewards", unit="responses", quarantine=_no_reward(computing, ids),
    )  # fmt: skip
    check_rows(table["response_id"], ids, writer)
    return floats(table["reward"]), DropReasons.of(table["drop_reason"].to_pylist())


def _no_reward(computing: Computing, ids: Sequence[str]) -> QuarantinePolicy[int]:
    """A response that kills its scorer has no reward, and the reason."""

    def row(index: int, reason: str) -> pa.Table:
        return pa.Table.from_pylist(
            [{"response_id": ids[index], "reward": None, "drop_reason": reason}], schema=_REWARDS
        )

    return QuarantinePolicy(lambda index: ids[index], row, computing.settings.cluster.max_poison_items)


def _scored(computing: Computing, result: pa.Table | None) -> pa.Table:
    if result is None:
        return _REWARDS.empty_table()
    table = result.select(_REWARDS.names).cast(_REWARDS)
    failed = [reason for reason in table["drop_reason"].to_pylist() if reason and reason.startswith("reward_")]
    if len(failed) > computing.settings.max_failed * table.num_rows:
        common, count = Counter(failed).most_common(1)[0]
        name = "reward_model" if computing.settings.reward_model else "reward_function"
        raise BackendError(
            f"the {name} failed for {len(failed)} of {table.num_rows} responses of a shard; most often ({count}): {common}",
            "Mend it and give the same command again (a changed function makes another selection: give another --out), "
            "or allow more failures with max_failed=1.0.",
        )
    return table


def pair_items(pairs: pa.Table) -> tuple[list[str], Callable[[Sequence[int]], list[ScoreItem]]]:
    """Ids and items of both responses of each pair, chosen and rejected in turn: response 2 p is the chosen one of pair p."""
    ids = [f"{pair_id}/{side}" for pair_id in pairs["pair_id"].to_pylist() for side in ("chosen", "rejected")]

    def items(shard: Sequence[int]) -> list[ScoreItem]:
        rows = rows_of(pairs, sorted({index // 2 for index in shard}), ("prompt", "chosen", "rejected", "columns_json"))
        return [
            ScoreItem(
                response_id=ids[index],
                messages=rows[index // 2]["prompt"],
                response=rows[index // 2]["rejected" if index % 2 else "chosen"][-1]["content"],
                columns=_other(rows[index // 2]),
            )
            for index in shard
        ]

    return ids, items


def response_items(
    prompts: pa.Table, responses: pa.Table, prompt_row_R: Ints
) -> tuple[list[str], Callable[[Sequence[int]], list[ScoreItem]]]:
    """Ids and items of the responses of prompts; `prompt_row_R`: the row of each response's prompt."""
    ids: list[str] = responses["response_id"].to_pylist()

    def items(shard: Sequence[int]) -> list[ScoreItem]:
        own = responses.select([name for name in ("text", "columns_json") if name in responses.column_names])
        taken = own.take(pa.array(shard)).to_pylist()
        asked = [int(row) for row in prompt_row_R[list(shard)]]
        rows = rows_of(prompts, sorted(set(asked)), ("messages", "columns_json"))
        return [
            ScoreItem(ids[index], rows[row]["messages"], response["text"], columns=_other({**rows[row], **response}))
            for index, row, response in zip(shard, asked, taken, strict=True)
        ]

    return ids, items


def _other(row: dict[str, Any]) -> dict[str, Any]:
    """The row's other columns."""
    found = row.get("columns_json")
    return dict(json.loads(found)) if found else {}
