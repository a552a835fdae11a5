"""One pair with its prompt and all the responses of that prompt, and what became of each (`pair`)."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.records import part_columns
from selfplay.inspect.query.connection import connect
from selfplay.inspect.query.tables import dataset_of, rows_where, table_of, take_rows
from selfplay.inspect.reading import SCHEMA_VERSION, finite
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force

_PROMPT = ["prompt_id", "source_file", "source_row", "messages", "num_prompt_tokens", "columns_json"]
_RESPONSE = ["response_id", "prompt_id", "response_index", "seed", "num_tokens", "text", "finish_reason"]
_OTHER = [
    "pair_id", "chosen_response_id", "rejected_response_id", "explicit_margin", "alignment_potential", "rank", "kept",
    "drop_reason",
]  # fmt: skip


def pair_document(store: Store, pair_id: str) -> dict[str, Any]:
    """The document of `pair --json`: `pair` (all its columns), `prompt`, `responses` (each with reward, its parts, log-probs,
    `use` chosen, rejected, other_pair or unused, and the reason), and `other_pairs` of the same prompt. Dropped pairs are
    found too. Raises ConfigError with the nearest ids."""
    found = _find(store, pair_id)
    if found is None:
        raise ConfigError(f"there is no pair {pair_id!r} in {store.layout.root}", _advice(store, pair_id))
    number, row = found
    pair = take_rows(store, number, "select", [row]).to_pylist()[0]
    prompt_row = rows_where(store, number, "prompts", "prompt_id", [pair["prompt_id"]])
    prompt = take_rows(store, number, "prompts", prompt_row, _PROMPT).to_pylist()[0]
    prompt["columns"] = json.loads(prompt.pop("columns_json"))
    return dict(
        finite(
            {
                "schema_version": SCHEMA_VERSION,
                "round": number,
                "pair": pair,
                "prompt": prompt,
                "responses": _responses(store, number, pair),
                "other_pairs": _other_pairs(store, number, pair),
            }
        )
    )


def _find(store: Store, pair_id: str) -> tuple[int, int] | None:
    """Round and row of a pair."""
    rounds = [number for number in store.rounds() if store.is_committed(number, "select")]
    # an id made by a run ends with its round and the two response indices: look there first
    named = re.search(r"-r(\d+)-\d+-\d+$", pair_id)
    rounds.sort(key=lambda number: named is None or number != int(named[1]))
    for number in rounds:
        found = rows_where(store, number, "select", "pair_id", [pair_id])
        if found:
            return number, found[0]
    return None


def _responses(store: Store, number: int, pair: dict[str, Any]) -> list[dict[str, Any]]:
    rows = rows_where(store, number, "sample", "prompt_id", [pair["prompt_id"]])
    responses = take_rows(store, number, "sample", rows, _RESPONSE).to_pylist()
    ids = [response["response_id"] for response in responses]

    def by_id(stage: str) -> dict[str, dict[str, Any]]:
        table = take_rows(store, number, stage, rows_where(store, number, stage, "response_id", ids))
        return {row["response_id"]: row for row in table.to_pylist()}

    rewards, logprobs, unused = by_id("score"), by_id("logprobs"), by_id("pair")
    uses = {pair["chosen_response_id"]: "chosen", pair["rejected_response_id"]: "rejected"}
    for response in responses:
        name = response["response_id"]
        reward, logprob = rewards[name], logprobs.get(name, {})
        response |= {
            "reward": reward["reward"],
            **{name: reward[name] for name in part_columns(reward)},
            "gold_reward": reward["gold_reward"],
            "policy_logp": logprob.get("policy_logp"),
            "reference_logp": logprob.get("reference_logp"),
            # a response that is in no pair has its reason; one in another pair of the prompt has none
            "use": uses.get(name, "unused" if name in unused else "other_pair"),
            "reason": unused[name]["reason"] if name in unused else None,
        }
    return sorted(responses, key=lambda response: int(response["response_index"]))


def _other_pairs(store: Store, number: int, pair: dict[str, Any]) -> list[dict[str, Any]]:
    """The other pairs of the prompt, by rank. Only the builder `all` makes several of one prompt: with others no file is
    gone through for them."""
    if config_in_force(store)["pairs"].get("build") != "all":
        return []
    rows = rows_where(store, number, "select", "prompt_id", [pair["prompt_id"]])
    others = take_rows(store, number, "select", rows, _OTHER).to_pylist()
    return [other for other in others if other["pair_id"] != pair["pair_id"]]


def _advice(store: Store, pair_id: str) -> str:
    rounds = [number for number in store.rounds() if store.is_committed(number, "select")]
    if not rounds:
        return "No round has its pairs yet: see `selfplay status`."
    near: list[str] = []
    for number in rounds:
        with connect({"pairs": dataset_of(table_of(store, number, "pairs"))}) as cursor:
            query = "SELECT pair_id FROM pairs ORDER BY levenshtein(pair_id, ?), pair_id LIMIT 3"
            near += [row[0] for row in cursor.execute(query, [pair_id]).fetchall()]
    found = difflib.get_close_matches(pair_id, near, n=3, cutoff=0.5)
    listing = f"`selfplay pairs {store.layout.root} ROUND` lists them."
    return (f"The nearest: {', '.join(found)}. " if found else "") + listing
