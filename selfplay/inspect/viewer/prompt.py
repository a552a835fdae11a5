"""One prompt of a round with all its responses, what each was given, and where each ended."""

from __future__ import annotations

import json
from typing import Any

from selfplay.core.records import part_columns
from selfplay.inspect.reading import finite
from selfplay.inspect.viewer.cache import Cache
from selfplay.inspect.viewer.catalogue import NotServedError
from selfplay.inspect.viewer.rows import RowSet, row_set
from selfplay.store.run import Store

_PROMPT = ["prompt_id", "source_file", "source_row", "messages", "num_prompt_tokens", "columns_json", "drop_reason"]
_RESPONSE = ["response_id", "response_index", "seed", "num_tokens", "text", "finish_reason", "policy_round"]
_PAIR = [
    "pair_id", "chosen_response_id", "rejected_response_id", "explicit_margin", "implicit_margin", "alignment_potential",
    "rank", "kept", "drop_reason",
]  # fmt: skip


def prompt_document(store: Store, cache: Cache, number: int, prompt_id: str) -> dict[str, Any]:
    """`prompt`, `pairs` of it (by rank), `responses` (by index), each with what is known of it so far: `reward`, its `parts`,
    `gold_reward`, log-probs, `ends`: the pairs it is in, or the `reason` why it is in none. Raises NotServedError."""
    prompts = row_set(store, number, "prompts", cache)
    at = prompts.rows_of("prompt_id", [prompt_id])
    if not len(at):
        raise NotServedError(
            f"round {number} has no prompt {prompt_id!r}", "Another round may have it: its pairs list their prompts."
        )
    prompt = prompts.take(at[:1], _PROMPT).to_pylist()[0]
    prompt["columns"] = json.loads(prompt.pop("columns_json"))
    pairs = _of_prompt(store, cache, number, "select", prompt_id, _PAIR) if number else []
    pairs.sort(key=lambda pair: (pair["rank"] is None, pair["rank"], pair["pair_id"]))
    document = {
        "round": number,
        "prompt": prompt,
        "pairs": pairs,
        "responses": _responses(store, cache, number, prompt_id, pairs),
    }
    return dict(finite(document))


def _of_prompt(
    store: Store, cache: Cache, number: int, stage: str, prompt_id: str, columns: list[str]
) -> list[dict[str, Any]]:
    if not store.is_committed(number, stage):
        return []
    table = row_set(store, number, stage, cache)
    names = [name for name in columns if name in table.schema.names]
    return list(table.take(table.rows_of("prompt_id", [prompt_id]), names).to_pylist())


def _responses(
    store: Store, cache: Cache, number: int, prompt_id: str, pairs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    if not number:
        return []
    responses = _of_prompt(store, cache, number, "sample", prompt_id, _RESPONSE)
    ids = [response["response_id"] for response in responses]
    rewards, logprobs, unused = (_by_id(store, cache, number, stage, ids) for stage in ("score", "logprobs", "pair"))
    for response in responses:
        name = response["response_id"]
        reward, logprob = rewards.get(name, {}), logprobs.get(name, {})
        response |= {
            "reward": reward.get("reward"),
            "parts": {part.removeprefix("reward_"): reward[part] for part in part_columns(reward)},
            "gold_reward": reward.get("gold_reward"),
            "policy_logp": logprob.get("policy_logp"),
            "reference_logp": logprob.get("reference_logp"),
            "reason": unused[name]["reason"] if name in unused else reward.get("drop_reason"),
            "ends": [
                {"side": side, **{key: pair[key] for key in ("pair_id", "kept", "rank", "drop_reason")}}
                for pair in pairs
                for side in ("chosen", "rejected")
                if pair[f"{side}_response_id"] == name
            ],
        }
    return sorted(responses, key=lambda response: int(response["response_index"]))


def _by_id(store: Store, cache: Cache, number: int, stage: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    if not store.is_committed(number, stage) or not ids:
        return {}
    table: RowSet = row_set(store, number, stage, cache)
    return {row["response_id"]: row for row in table.take(table.rows_of("response_id", ids)).to_pylist()}
