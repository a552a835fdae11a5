"""One pair with its prompt and all responses to that prompt, and how each was used (`pair`)."""

from __future__ import annotations

import difflib
import re
from typing import Any

from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError
from selfplay.core.records import part_columns
from selfplay.core.stages import REFERENCE
from selfplay.inspect.query.connection import connect
from selfplay.inspect.query.tables import rows_of, scan
from selfplay.inspect.reading import SCHEMA_VERSION, columns_of, finite
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection

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
    pair = _find(store, pair_id)
    number = pair["round"]
    return dict(
        finite(
            {
                "schema_version": SCHEMA_VERSION,
                "round": number,
                "pair": pair,
                "prompt": prompt_of(store, number, pair["prompt_id"]),
                "responses": _responses(store, number, pair),
                "other_pairs": _other_pairs(store, number, pair),
            }
        )
    )


def _find(store: Store, pair_id: str) -> dict[str, Any]:
    """The row of a pair."""
    rounds = [number for number in store.rounds() if store.is_committed(number, "select")]
    # an id made by a run ends with its round and the two response indices: look there first
    named = re.search(r"-r(\d+)-\d+-\d+$", pair_id)
    for number in sorted(rounds, key=lambda number: named is None or number != int(named[1])):
        for pair in rows_of(store, number, "select", "pair_id", [pair_id]):
            return pair
    message = f"there is no pair {pair_id!r} in {store.layout.root}"
    if not rounds:
        raise ConfigError(message, "No round has its pairs yet: see `selfplay status`.")
    for number in rounds:
        store.lazy_table(number, "select").check_size(["pair_id"])
    with connect({"pairs": scan(store, "pairs")}) as cursor:
        query = "SELECT pair_id FROM pairs ORDER BY levenshtein(pair_id, ?), pair_id LIMIT 3"
        near = [row[0] for row in cursor.execute(query, [pair_id]).fetchall()]
    near = difflib.get_close_matches(pair_id, near, n=3, cutoff=0.5)
    listing = f"`{shell_command('pairs', store.layout.root, 'ROUND')}` lists them."
    raise ConfigError(message, (f"The nearest: {', '.join(near)}. " if near else "") + listing)


def prompt_of(store: Store, number: int, prompt_id: str, *extra: str) -> dict[str, Any] | None:
    """A prompt with the columns of its source, and `extra` columns of the table; None where the round does not have it."""
    found = rows_of(store, number, "prompts", "prompt_id", [prompt_id], [*_PROMPT, *extra])
    for prompt in found:
        prompt["columns"] = columns_of(prompt.pop("columns_json"))
        if is_selection(store) and not prompt["num_prompt_tokens"]:
            prompt["num_prompt_tokens"] = None  # not counted without a policy
    return found[0] if found else None


def responses_to(store: Store, number: int, prompt_id: str, *extra: str) -> list[dict[str, Any]]:
    """The responses to a prompt that are committed so far, by index, each with its reward and the parts of it, log-probs, and the
    `reason` if it is in no pair; `extra` columns of the table too. What is not committed yet is null."""
    responses = rows_of(store, number, "sample", "prompt_id", [prompt_id], [*_RESPONSE, *extra])
    ids = [response["response_id"] for response in responses]
    rewards, logprobs, unused = (
        {row["response_id"]: row for row in rows_of(store, number, stage, "response_id", ids)}
        for stage in ("score", "logprobs", "pair")
    )
    # where the ranking needed no reference, only the kept pairs have its log-probs
    of_kept = {row["response_id"]: row for row in rows_of(store, number, "train", "response_id", ids, hidden=REFERENCE)}
    for response in responses:
        name = response["response_id"]
        reward, logprob = rewards.get(name, {}), logprobs.get(name, {})
        reference_logp = logprob.get("reference_logp")
        response |= {
            "reward": reward.get("reward"),
            **{part: reward[part] for part in part_columns(reward)},
            "gold_reward": reward.get("gold_reward"),
            "policy_logp": logprob.get("policy_logp"),
            "reference_logp": of_kept.get(name, {}).get("logp") if reference_logp is None else reference_logp,
            "reason": unused[name]["reason"] if name in unused else reward.get("drop_reason"),
        }
        if is_selection(store):
            response["finish_reason"] = None  # nobody sampled it here
    return sorted(responses, key=lambda response: int(response["response_index"]))


def _responses(store: Store, number: int, pair: dict[str, Any]) -> list[dict[str, Any]]:
    responses = responses_to(store, number, pair["prompt_id"])
    uses = {pair["chosen_response_id"]: "chosen", pair["rejected_response_id"]: "rejected"}
    for response in responses:
        reason = response.pop("reason")
        # a response that is in no pair has its reason; one in another pair of the prompt has none
        response |= {
            "use": uses.get(response["response_id"], "other_pair" if reason is None else "unused"),
            "reason": reason,
        }
    return responses


def _other_pairs(store: Store, number: int, pair: dict[str, Any]) -> list[dict[str, Any]]:
    """The other pairs of the prompt, by rank. Only the builder `all` makes several of one prompt, and the pairs of a dataset may
    share one."""
    if pair["prompt_id"] is None:
        return []
    if not is_selection(store) and config_in_force(store)["pairs"].get("build") != "all":
        return []
    others = rows_of(store, number, "select", "prompt_id", [pair["prompt_id"]], _OTHER)
    return [other for other in others if other["pair_id"] != pair["pair_id"]]
