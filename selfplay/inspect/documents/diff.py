"""What changed between two rounds, of one run or of two: settings, numbers, and the responses to the same prompts (`diff`).

Prompts are matched by their id. The held-out ones are the same in every round; training prompts are where
`prompts.order: same` asks them again, or where two runs read the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core import magnitudes
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError
from selfplay.core.evaluation_statistics import bootstrap_mean
from selfplay.inspect.documents.rounds import round_summary
from selfplay.inspect.query.tables import rows_of
from selfplay.inspect.reading import SCHEMA_VERSION, finite, open_store, require_round
from selfplay.store.layout import is_run
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force

# kind of responses -> the stage that has their texts
KINDS = {"held-out": "evaluate", "training": "sample"}
_JUDGES = {"gold": "gold_reward", "reward": "reward"}
_NOT_COMPARED = ("round", "stage_seconds", "complete")
_SHOWN = ("response_id", "mode", "response_index", "reward", "gold_reward", "num_tokens", "finish_reason")
# above as many prompts the interval is narrower than anybody reads it, and drawing it takes long
_MOST_FOR_INTERVAL = 100_000


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a run and a round of it."""

    store: Store
    round: int

    def to_json(self) -> dict[str, Any]:
        """As in the document."""
        return {"run": str(self.store.layout.root), "run_id": self.store.run_id, "round": self.round}


def parse_side(given: str, other: Side | None = None) -> Side:
    """RUN or RUN@ROUND as a side, without a round the newest that has an evaluation; `@ROUND` alone is a round of the
    `other` side's run. Raises ConfigError."""
    path, at, number = given.rpartition("@")
    named = bool(at) and number.isdecimal() and not is_run(Path(given))
    if named and not path and other is not None:
        store = other.store
    else:
        store = open_store(Path(path if named else given))
    if named:
        require_round(store, int(number))
        return Side(store, int(number))
    evaluated = [round_number for round_number in store.rounds() if store.is_committed(round_number, "evaluate")]
    present = evaluated or store.rounds()
    if not present:
        raise ConfigError(
            f"{given} has no round yet", f"`{shell_command('status', Path(given))}` reports its progress."
        )
    return Side(store, present[-1])


def diff_document(
    a: Side, b: Side, *, kind: str | None = None, limit: int = 10, content: bool = False
) -> dict[str, Any]:
    """The document of `diff --json`. Everywhere `change` is b - a, and null for a value that a side does not have.

    `config`: settings that differ; `metrics`: numbers of the rounds, those that differ and those that do not;
    `responses`: None where no kind of response is on both sides, else how many prompts are on both, better and worse by
    `judge`, the mean change with its 95 % interval, and the `limit` prompts of the largest change with their responses
    (`content`: prompt and texts too). `kind` is of KINDS; None: held-out where both have them. Raises ConfigError.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"there are no {kind!r} responses", f"Kinds: {', '.join(KINDS)}.")
    found = kind or next((name for name in KINDS if _has(a, name) and _has(b, name)), None)
    if kind is not None:
        for side in (a, b):
            require_round(side.store, side.round, KINDS[kind])
    return dict(
        finite(
            {
                "schema_version": SCHEMA_VERSION,
                "a": a.to_json(),
                "b": b.to_json(),
                "config": _config(a, b),
                "metrics": _metrics(a, b),
                "responses": _responses(a, b, found, limit, content) if found is not None else None,
            }
        )
    )


def _has(side: Side, kind: str) -> bool:
    return side.store.is_committed(side.round, KINDS[kind])


def _config(a: Side, b: Side) -> list[dict[str, Any]]:
    if a.store.layout == b.store.layout:
        return []
    one, other = (_flat(config_in_force(side.store)) for side in (a, b))
    names = [*one, *(name for name in other if name not in one)]
    return [
        {"name": name, "a": one.get(name), "b": other.get(name)} for name in names if one.get(name) != other.get(name)
    ]


def _flat(section: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) and value else {above + name: value}
    return flat


def _metrics(a: Side, b: Side) -> list[dict[str, Any]]:
    one, other = (round_summary(side.store, side.round).to_json() for side in (a, b))
    return [
        {"name": name, "a": one[name], "b": other[name], "change": _change(one[name], other[name])}
        for name in one
        if name not in _NOT_COMPARED and (one[name], other[name]) != (None, None)
    ]


def _change(one: Any, other: Any) -> Any:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, other))
    return other - one if numbers else None


def _responses(a: Side, b: Side, kind: str, limit: int, content: bool) -> dict[str, Any]:
    one, other = _judged(a, kind), _judged(b, kind)
    judge = "gold" if all(pc.count(side["gold_reward"]).as_py() for side in (one, other)) else "reward"
    ids, values_a, values_b = _by_prompt(one, other, _JUDGES[judge])
    with np.errstate(over="ignore"):  # beyond the largest float it is infinite, and not counted
        change = values_b - values_a
    known = np.isfinite(change)
    mean = bootstrap_mean(change[known], seed=0) if 0 < known.sum() <= _MOST_FOR_INTERVAL else None
    # the largest change first, of equal ones the first by id; prompts that a side has no number for come last
    order = np.lexsort((np.arange(len(ids)), -np.abs(np.where(known, change, 0.0)), ~known))[:limit]
    wanted = [ids[row] for row in order]
    texts = _prompts(b, kind, wanted) if content else {}
    shown_a, shown_b = (_of_prompts(side, kind, wanted, content) for side in (a, b))
    return {
        "kind": kind,
        "judge": judge,
        "num_prompts": len(ids),
        "num_only_a": _num_prompts(one) - len(ids),
        "num_only_b": _num_prompts(other) - len(ids),
        "num_better": int((change[known] > 0).sum()),
        "num_worse": int((change[known] < 0).sum()),
        "num_equal": int((change[known] == 0).sum()),
        "change_mean": magnitudes.mean(change[known]) if known.any() else None,
        "change_ci_low": mean.ci_low if mean else None,
        "change_ci_high": mean.ci_high if mean else None,
        "prompts": [
            {
                "prompt_id": ids[row],
                "a": float(values_a[row]),
                "b": float(values_b[row]),
                "change": float(change[row]),
                **({"messages": texts.get(ids[row])} if content else {}),
                "responses_a": shown_a.get(ids[row], []),
                "responses_b": shown_b.get(ids[row], []),
            }
            for row in order.tolist()
        ],
    }


def _judged(side: Side, kind: str) -> pa.Table:
    """prompt_id, reward and gold_reward of the responses; held-out: of the sampled ones, greedy ones where there are no
    others."""
    store, number = side.store, side.round
    if kind == "held-out":
        table = store.table(number, "evaluate", columns=["prompt_id", "mode", "reward", "gold_reward"])
        sampled = table.filter(pc.equal(table["mode"], "sampled"))
        return sampled if sampled.num_rows else table
    prompts = store.table(number, "sample", columns=["response_id", "prompt_id"])
    if not store.is_committed(number, "score"):
        nothing = pa.nulls(prompts.num_rows, pa.float64())
        return prompts.append_column("reward", nothing).append_column("gold_reward", nothing)
    # row by row the same responses
    rewards = store.table(number, "score", columns=["reward", "gold_reward"])
    return prompts.append_column("reward", rewards["reward"]).append_column("gold_reward", rewards["gold_reward"])


def _num_prompts(table: pa.Table) -> int:
    return int(pc.count_distinct(table["prompt_id"]).as_py())


def _by_prompt(one: pa.Table, other: pa.Table, column: str) -> tuple[list[str], Any, Any]:
    """The prompts of both by id, and the mean over each prompt's responses on either side (NaN where none has a number)."""
    means = [_means(table, column) for table in (one, other)]
    both = means[0].join(means[1], "prompt_id", join_type="inner", right_suffix=" b").sort_by("prompt_id")
    values = [
        both[name].cast(pa.float64()).to_numpy() for name in both.column_names if name.startswith(f"{column}_mean")
    ]
    return both["prompt_id"].to_pylist(), values[0], values[1]


def _means(table: pa.Table, column: str) -> pa.Table:
    """prompt_id and the mean of a column over its responses; numbers near the largest float are added in
    another unit, because their sum would be infinite."""
    _, unit = magnitudes.in_units(table[column].drop_null().cast(pa.float64()).to_numpy())
    scaled = pa.table({"prompt_id": table["prompt_id"], column: pc.divide(table[column].cast(pa.float64()), unit)})
    found = scaled.group_by("prompt_id").aggregate([(column, "mean")])
    name = f"{column}_mean"
    return pa.table({"prompt_id": found["prompt_id"], name: pc.multiply(found[name].cast(pa.float64()), unit)})


def _of_prompts(side: Side, kind: str, ids: list[str], content: bool) -> dict[str, list[dict[str, Any]]]:
    """The responses to these prompts by prompt, in their order."""
    store, number, stage = side.store, side.round, KINDS[kind]
    found = rows_of(store, number, stage, "prompt_id", ids)
    if kind == "training":
        names = [response["response_id"] for response in found]
        rewards = {row["response_id"]: row for row in rows_of(store, number, "score", "response_id", names)}
        found = [response | rewards.get(response["response_id"], {}) for response in found]
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for response in found:
        shown = {name: response.get(name) for name in _SHOWN}
        by_prompt.setdefault(response["prompt_id"], []).append(shown | ({"text": response["text"]} if content else {}))
    return by_prompt


def _prompts(side: Side, kind: str, ids: list[str]) -> dict[str, Any]:
    number = 0 if kind == "held-out" else side.round
    found = rows_of(side.store, number, "prompts", "prompt_id", ids, ["prompt_id", "messages"])
    return {row["prompt_id"]: row["messages"] for row in found}
