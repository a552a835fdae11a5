"""Pairs out of a dataset with several scored responses a prompt, by the same code as in a run (`selection/pairing`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError, DataError
from selfplay.inputs.rows.values import lenient_json
from selfplay.selection.arrays import Floats, Ints
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing import build_pairs
from selfplay.selection.reasons import DropReasons
from selfplay.selection.responses import response_pool

# Of a response, beside its text: carried to its side of the pair.
_NUMBERS = ("policy_logp", "reference_logp", "num_tokens")


@dataclass(frozen=True)
class BuiltPairs:
    """`pairs` as a pairs table; `unused`: `response_id prompt_id source_file source_row reason` of every response in no pair.
    `length_penalty`: what was taken off the reward for each token. `chosen_P` and `rejected_P` are rows of the responses."""

    pairs: pa.Table
    unused: pa.Table
    num_prompts: int
    num_responses: int
    length_penalty: float
    chosen_P: Ints
    rejected_P: Ints


def prompt_rows(prompts: pa.Table, responses: pa.Table) -> Ints:
    """The row of each response's prompt."""
    row_of = {prompt_id: row for row, prompt_id in enumerate(prompts["prompt_id"].to_pylist())}
    return np.array([row_of[prompt_id] for prompt_id in responses["prompt_id"].to_pylist()], dtype=np.int64)


def prompt_numbers(prompts: pa.Table) -> list[str]:
    """The numbers that come once for each prompt, and so for each of its pairs."""
    texts = ("prompt_id", "source_file", "source_row", "messages", "columns_json", "group", "source")
    return [name for name in prompts.column_names if name not in texts]


def build(
    prompts: pa.Table, responses: pa.Table, rewards_R: Floats, reasons_R: DropReasons, rules: PairRules, seed: int
) -> BuiltPairs:
    """Build the pairs. `rewards_R` are NaN where there is none, `reasons_R` say why. Raises ConfigError for rules that need
    token counts, and DataError where no prompt gives a pair."""
    lengths = responses["num_tokens"].to_numpy() if "num_tokens" in responses.column_names else None
    if rules.needs_lengths() and lengths is None:
        raise ConfigError(
            "pairs.max_length_gap and pairs.length_penalty need the lengths of the responses in tokens",
            "Name a column of token counts with --columns num_tokens=COLUMN, or --policy MODEL (its tokenizer counts); or leave "
            "the rule out.",
        )
    pool = response_pool(
        prompt_ids=responses["prompt_id"].to_pylist(),
        response_index=responses["response_index"].to_numpy(),
        rewards=rewards_R,
        texts=responses["text"].to_pylist(),
        drop_reasons=reasons_R.tolist(),
        num_tokens=lengths,
    )
    found = build_pairs(pool, rules, seed)
    row_R = prompt_rows(prompts, responses)
    unused = np.flatnonzero(found.reason_R.code_P != 0)
    names = [
        name for name in ("response_id", "prompt_id", "source_file", "source_row") if name in responses.column_names
    ]
    left = responses.select(names).take(pa.array(unused))
    left = left.append_column("reason", pa.array(found.reason_R.at(unused).tolist(), pa.string()))
    if not len(found.chosen_P):
        counts = found.reason_R.counts()
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"{prompts.num_rows} prompts with {responses.num_rows} responses give no pair: {said}",
            "A pair takes two usable responses of different reward and text.",
        )
    columns: dict[str, Any] = _of_prompts(prompts, responses, row_R, found.chosen_P, found.rejected_P)
    for side, row_P in (("chosen", found.chosen_P), ("rejected", found.rejected_P)):
        taken = responses.take(pa.array(row_P))
        columns[side] = assistant_turns(taken["text"])
        columns[f"{side}_response_id"] = taken["response_id"]
        columns |= {f"{name}_{side}": taken[name] for name in _NUMBERS if name in responses.column_names}
    columns |= _provenance(responses, found.chosen_P, found.rejected_P)
    if "columns_json" in responses.column_names:
        columns["columns_json"] = _columns_of_sides(responses["columns_json"], found.chosen_P, found.rejected_P)
    columns |= {
        "reward_chosen": found.reward_chosen_P,
        "reward_rejected": found.reward_rejected_P,
        "prompt_reward_mean": found.prompt_reward_mean_P,
        "prompt_reward_std": found.prompt_reward_std_P,
    }
    return BuiltPairs(
        pa.table(columns),
        left,
        prompts.num_rows,
        responses.num_rows,
        found.length_penalty,
        found.chosen_P,
        found.rejected_P,
    )


def _of_prompts(
    prompts: pa.Table, responses: pa.Table, row_R: Ints, chosen_P: Ints, rejected_P: Ints
) -> dict[str, Any]:
    index = responses["response_index"].to_numpy()
    rows = row_R[chosen_P]
    taken = prompts.take(pa.array(rows))
    ids = [
        f"{prompt_id}-{chosen}-{rejected}"
        for prompt_id, chosen, rejected in zip(
            taken["prompt_id"].to_pylist(), index[chosen_P].tolist(), index[rejected_P].tolist(), strict=True
        )
    ]
    columns: dict[str, Any] = {"pair_id": pa.array(ids, pa.string()), "prompt": taken["messages"]}
    names = ("prompt_id", "source", "source_file", "source_row", "columns_json", "group", *prompt_numbers(prompts))
    return columns | {name: taken[name] for name in names if name in prompts.column_names}


def _provenance(responses: pa.Table, chosen_P: Ints, rejected_P: Ints) -> dict[str, Any]:
    """Where each response of a pair is from, of responses that have rows or groups of their own: `source_file_SIDE`,
    `source_row_SIDE`, `group_SIDE`. A pair is in the group of both its responses, in none where they differ."""
    sides = {"chosen": responses.take(pa.array(chosen_P)), "rejected": responses.take(pa.array(rejected_P))}
    chosen, rejected = sides.values()
    found: dict[str, Any] = {}
    if "source_row" in responses.column_names and not chosen["source_row"].equals(rejected["source_row"]):
        for side, taken in sides.items():
            found |= {f"{name}_{side}": taken[name] for name in ("source_file", "source_row")}
    if "group" in responses.column_names:
        found |= {f"group_{side}": taken["group"] for side, taken in sides.items()}
        same = pc.fill_null(pc.equal(chosen["group"], rejected["group"]), False)
        found["group"] = pc.if_else(same, chosen["group"], pa.scalar(None, pa.string()))
    return found


def _columns_of_sides(documents: pa.ChunkedArray, chosen_P: Ints, rejected_P: Ints) -> pa.Array:
    """The other columns of the two responses of each pair as one JSON document. A column that differs between the
    responses of any pair belongs to the responses, and goes by NAME_chosen and NAME_rejected."""
    sides = [
        [json.loads(text) for text in documents.take(pa.array(rows)).to_pylist()] for rows in (chosen_P, rejected_P)
    ]
    of_responses: set[str] = set()
    for chosen, rejected in zip(*sides, strict=True):
        of_responses |= {name for name in {*chosen, *rejected} if chosen.get(name) != rejected.get(name)}
    merged = []
    for chosen, rejected in zip(*sides, strict=True):
        found = {name: value for name, value in {**chosen, **rejected}.items() if name not in of_responses}
        for side, document in (("chosen", chosen), ("rejected", rejected)):
            found |= {f"{name}_{side}": value for name, value in document.items() if name in of_responses}
        merged.append(lenient_json(found))
    return pa.array(merged, pa.string())


def assistant_turns(texts: pa.ChunkedArray) -> pa.Array:
    """Each text as a conversation of one assistant turn."""
    content = texts.cast(pa.string()).combine_chunks()
    if isinstance(content, pa.ChunkedArray):
        content = content.chunk(0) if content.num_chunks else pa.array([], pa.string())
    turns = pa.StructArray.from_arrays(
        [pa.repeat(pa.scalar("assistant"), len(content)), content], names=["role", "content"]
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(len(content) + 1, dtype=np.int32)), turns)
