"""One prompt of a round with all its responses, the reward of each, and the pairs it is in."""

from __future__ import annotations

from typing import Any

from selfplay.core.records import part_columns
from selfplay.inspect.documents.pair import prompt_of, responses_to
from selfplay.inspect.query.tables import rows_of
from selfplay.inspect.reading import finite
from selfplay.inspect.viewer.catalogue import NotServedError
from selfplay.store.run import Store

_PAIR = ["pair_id", "chosen_response_id", "rejected_response_id", "rank", "kept", "drop_reason"]


def prompt_document(store: Store, number: int, prompt_id: str) -> dict[str, Any]:
    """`prompt` and `responses` (by index), each with what is known of it so far: `reward`, its `parts`, `gold_reward`, log-probs,
    `ends`: the pairs it is in, or the `reason` why it is in none. Raises NotServedError."""
    prompt = prompt_of(store, number, prompt_id, "drop_reason")
    if prompt is None:
        raise NotServedError(
            f"round {number} has no prompt {prompt_id!r}", "Another round may have it: its pairs list their prompts."
        )
    responses = responses_to(store, number, prompt_id, "policy_round") if number else []
    pairs = rows_of(store, number, "select", "prompt_id", [prompt_id], _PAIR) if number else []
    pairs.sort(key=lambda pair: (pair["rank"] is None, pair["rank"], pair["pair_id"]))
    for response in responses:
        response["parts"] = {name.removeprefix("reward_"): response[name] for name in part_columns(response)}
        response["ends"] = [
            {"side": side, **pair}
            for pair in pairs
            for side in ("chosen", "rejected")
            if pair[f"{side}_response_id"] == response["response_id"]
        ]
    return dict(finite({"prompt": prompt, "responses": responses}))
