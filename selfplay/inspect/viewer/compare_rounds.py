"""Two rounds compared prompt by prompt: their responses to the same prompts, and the rewards of these.

The held-out prompts are the same in every round. Those of the training are where `prompts.order: same` says so.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from selfplay.core import magnitudes
from selfplay.inspect.reading import finite
from selfplay.inspect.viewer.browser import LONGEST, compared
from selfplay.inspect.viewer.cache import Cache
from selfplay.inspect.viewer.catalogue import NotServedError
from selfplay.inspect.viewer.query import pages_of
from selfplay.inspect.viewer.rows import RowSet, row_set
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force

Kind = Literal["evaluation", "training"]
Floats = np.ndarray[Any, np.dtype[np.float64]]

SIZE = 25
ORDERS = {"worse": "largest losses first", "better": "largest gains first", "table": "order of the prompts"}
MEASURES = {"gold_reward": "gold reward", "reward": "reward", "num_tokens": "tokens"}
_CLIP = 300
_RESPONSE = ["prompt_id", "response_id", "response_index", "num_tokens", "text", "finish_reason"]


def rounds_with(store: Store, kind: Kind) -> list[int]:
    """The rounds that can be compared."""
    if kind == "evaluation":
        return [number for number in store.rounds() if store.is_committed(number, "evaluate")]
    if config_in_force(store)["prompts"].get("order") != "same":
        return []
    return [number for number in store.rounds() if number and store.is_committed(number, "score")]


def measures(store: Store, cache: Cache, kind: Kind, number: int) -> list[str]:
    """What responses were measured by, the judge first."""
    table = _rewards(store, cache, kind, number)
    return [name for name in MEASURES if name == "num_tokens" or not _is_empty(table, name)]


def _is_empty(table: RowSet, name: str) -> bool:
    return name not in table.schema.names or not np.isfinite(table.numbers(name)).any()


def list_document(
    store: Store, cache: Cache, kind: Kind, rounds: tuple[int, int], measure: str, order: str, page: int
) -> dict[str, Any]:
    """A page of the prompts with the mean of the measure in both rounds."""
    prompts = _prompts(store, cache, kind, rounds[0])
    before, after = (_means(store, cache, kind, number, measure, prompts) for number in rounds)
    with np.errstate(over="ignore"):  # beyond the largest float it is infinite, and not counted
        change = after - before
    rows = np.arange(len(change))
    if order != "table":
        rows = np.argsort(change if order == "worse" else -change, kind="stable")
        rows = rows[np.isfinite(change[rows])]
    num_pages, page, place = pages_of(len(rows), SIZE, page)
    shown = rows[place]
    taken = prompts.take(shown, ["prompt_id", "messages"]).to_pylist()
    lines = [
        {
            "prompt_id": prompt["prompt_id"],
            "text": prompt["messages"][-1]["content"][:_CLIP],
            "before": float(before[row]),
            "after": float(after[row]),
            "change": float(change[row]),
        }
        for row, prompt in zip(shown.tolist(), taken, strict=True)
    ]
    known = change[np.isfinite(change)]
    return {
        "lines": finite(lines),
        "page": page,
        "num_pages": num_pages,
        "num_prompts": len(change),
        "num_compared": len(known),
        "num_better": int((known > 0).sum()),
        "num_worse": int((known < 0).sum()),
        "mean_before": magnitudes.mean(before[np.isfinite(before)]) if len(known) else None,
        "mean_after": magnitudes.mean(after[np.isfinite(after)]) if len(known) else None,
    }


def prompt_document(
    store: Store, cache: Cache, kind: Kind, rounds: tuple[int, int], prompt_id: str, *, diff: bool
) -> dict[str, Any]:
    """The prompt with its responses in both rounds, each beside the other round's of the same mode and number."""
    prompts = _prompts(store, cache, kind, rounds[0])
    at = prompts.rows_of("prompt_id", [prompt_id])
    if not len(at):
        raise NotServedError(
            f"these rounds share no prompt {prompt_id!r}", "The comparison lists the prompts that they share."
        )
    prompt = prompts.take(at[:1], ["prompt_id", "messages"]).to_pylist()[0]
    sides = [_responses(store, cache, kind, number, prompt_id) for number in rounds]
    lines = []
    for key in sorted(sides[0].keys() | sides[1].keys()):
        one, two = sides[0].get(key), sides[1].get(key)
        pieces = compared(
            one["text"][:LONGEST] if one else "", two["text"][:LONGEST] if two else "", diff=diff and bool(one and two)
        )
        lines.append({"mode": key[0], "index": key[1], "sides": [(one, pieces[0]), (two, pieces[1])]})
    return {"prompt": prompt, "lines": lines}


def _prompts(store: Store, cache: Cache, kind: Kind, number: int) -> RowSet:
    return row_set(store, 0 if kind == "evaluation" else number, "prompts", cache)


def _rewards(store: Store, cache: Cache, kind: Kind, number: int) -> RowSet:
    return row_set(store, number, "evaluate" if kind == "evaluation" else "score", cache)


def _texts(store: Store, cache: Cache, kind: Kind, number: int) -> RowSet:
    return row_set(store, number, "evaluate" if kind == "evaluation" else "sample", cache)


def _means(store: Store, cache: Cache, kind: Kind, number: int, measure: str, prompts: RowSet) -> Floats:
    """The mean of a measure over the responses of each prompt, in the order of `prompts`; NaN without a value. Rewards of a
    training round are in the order of the responses. Of an evaluation only the sampled responses count."""
    texts, rewards = _texts(store, cache, kind, number), _rewards(store, cache, kind, number)

    def make() -> Floats:
        source = texts if measure == "num_tokens" else rewards
        values = source.numbers(measure)
        among = prompts.column("prompt_id").combine_chunks()
        place = pc.index_in(texts.column("prompt_id"), value_set=among).fill_null(-1).to_numpy()
        counted = np.isfinite(values) & (place >= 0)
        if kind == "evaluation":
            counted &= pc.equal(texts.column("mode"), "sampled").to_numpy()
        scaled, unit = magnitudes.in_units(values[counted])  # sums of numbers near the largest float are infinite
        sums = np.bincount(place[counted], weights=scaled, minlength=len(among))
        counts = np.bincount(place[counted], minlength=len(among))
        means: Floats = np.divide(sums, counts, out=np.full(len(among), np.nan), where=counts > 0)
        return unit * means

    return cache.get((texts.key, rewards.key, prompts.key, "means", measure), make)


def _responses(
    store: Store, cache: Cache, kind: Kind, number: int, prompt_id: str
) -> dict[tuple[str, int], dict[str, Any]]:
    """By mode (of a training response: sampled) and number."""
    texts = _texts(store, cache, kind, number)
    rows = texts.rows_of("prompt_id", [prompt_id])
    names = [*_RESPONSE, *(("mode",) if kind == "evaluation" else ())]
    found: list[dict[str, Any]] = texts.take(rows, names).to_pylist()
    rewards = _rewards(store, cache, kind, number)
    given = rewards.take(rows, ["response_id", "reward", "gold_reward", "drop_reason"]).to_pylist()
    for response, reward in zip(found, given, strict=True):
        assert response["response_id"] == reward["response_id"], "rewards stand in the order of the responses"
        response |= finite(reward)
    return {(response.get("mode", "sampled"), response["response_index"]): response for response in found}
