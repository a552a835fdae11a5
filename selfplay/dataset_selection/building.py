"""Pairs out of a dataset with several scored responses a prompt, by the same code as in a run (`selection/pairing`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError, DataError
from selfplay.dataset_selection.chunks import taken
from selfplay.dataset_selection.turn_texts import ColumnTexts
from selfplay.inputs.rows.values import lenient_json
from selfplay.selection.arrays import Floats, Ints
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing import build_pairs
from selfplay.selection.pairing.building import Pairing
from selfplay.selection.reasons import DropReasons
from selfplay.selection.responses import response_pool
from selfplay.store.spool import Spool, SpooledTable, release_pages

# Of a response, beside its text: carried to its side of the pair.
_NUMBERS = ("policy_logp", "reference_logp", "num_tokens")
# Pairs that are put together at a time.
_AT_A_TIME = 1 << 14


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


def prompt_numbers(prompts: pa.Table) -> list[str]:
    """The numbers that come once for each prompt, and so for each of its pairs."""
    return _numbers(prompts.column_names)


def _numbers(names: Iterable[str]) -> list[str]:
    texts = ("prompt_id", "source_file", "source_row", "messages", "columns_json", "group", "source")
    return [name for name in names if name not in texts]


def build(
    prompts: pa.Table,
    responses: pa.Table,
    prompt_row_R: Ints,
    rewards_R: Floats,
    reasons_R: DropReasons,
    rules: PairRules,
    seed: int,
    spool: Spool | None = None,
) -> BuiltPairs:
    """Build the pairs. `prompt_row_R`: the row of each response's prompt; `rewards_R` are NaN where there is none, `reasons_R`
    say why. A large table of pairs is kept in `spool`. Raises ConfigError for rules that need token counts, and DataError where
    no prompt gives a pair."""
    lengths = responses["num_tokens"].to_numpy() if "num_tokens" in responses.column_names else None
    if rules.needs_lengths() and lengths is None:
        raise ConfigError(
            "pairs.max_length_gap and pairs.length_penalty need the lengths of the responses in tokens",
            "Name a column of token counts with --columns num_tokens=COLUMN, or --policy MODEL (its tokenizer counts), or remove "
            "the rule.",
        )
    texts = ColumnTexts(responses["text"])
    pool = response_pool(
        prompt_ids=responses["prompt_id"].to_pylist(),
        response_index=responses["response_index"].to_numpy(),
        rewards=rewards_R,
        texts=texts,
        text_codes=texts.codes(),
        drop_reasons=reasons_R.tolist(),
        num_tokens=lengths,
    )
    found = build_pairs(pool, rules, seed)
    unused = np.flatnonzero(found.reason_R.code_P != 0)
    names = _present(responses, ("response_id", "prompt_id", "source_file", "source_row"))
    left = pa.table({name: taken(responses[name], unused) for name in names})
    left = left.append_column("reason", pa.array(found.reason_R.at(unused).tolist(), pa.string()))
    if not len(found.chosen_P):
        counts = found.reason_R.counts()
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"{prompts.num_rows} prompts with {responses.num_rows} responses give no pair: {said}",
            "A pair needs two usable responses with different rewards and texts.",
        )
    return BuiltPairs(
        _table(prompts, responses, prompt_row_R, found, spool),
        left,
        prompts.num_rows,
        responses.num_rows,
        found.length_penalty,
        found.chosen_P,
        found.rejected_P,
    )


def _table(prompts: pa.Table, responses: pa.Table, prompt_row_R: Ints, found: Pairing, spool: Spool | None) -> pa.Table:
    """The table of the pairs, put together some thousand rows at a time: a prompt's texts are in each of its pairs."""
    two_rows = "source_row" in responses.column_names and not _same_rows(responses, found)
    of_responses = _names_of_responses(responses, found) if "columns_json" in responses.column_names else None
    table: SpooledTable | None = None
    for start in range(0, len(found.chosen_P), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        sides = {
            side: pa.table({name: taken(responses[name], row_P[rows]) for name in responses.column_names})
            for side, row_P in (("chosen", found.chosen_P), ("rejected", found.rejected_P))
        }
        of_prompts = prompt_row_R[found.chosen_P[rows]]
        columns = _of_prompts({name: taken(prompts[name], of_prompts) for name in prompts.column_names}, sides)
        for side, responses_P in sides.items():
            columns[side] = assistant_turns(responses_P["text"])
            columns[f"{side}_response_id"] = responses_P["response_id"]
            columns |= {f"{name}_{side}": responses_P[name] for name in _present(responses, _NUMBERS)}
            if two_rows:
                columns |= {f"{name}_{side}": responses_P[name] for name in ("source_file", "source_row")}
        columns |= _groups(sides)
        if of_responses is not None:
            columns["columns_json"] = _columns_of_sides(sides, of_responses)
        columns |= {
            "reward_chosen": found.reward_chosen_P[rows],
            "reward_rejected": found.reward_rejected_P[rows],
            "prompt_reward_mean": found.prompt_reward_mean_P[rows],
            "prompt_reward_std": found.prompt_reward_std_P[rows],
        }
        block = pa.table(columns).combine_chunks()
        table = table or SpooledTable(block.schema, spool)
        for batch in block.to_batches():
            table.append(batch)
        release_pages()
    assert table is not None, "there is a pair"
    return table.done()


def _present(table: pa.Table, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in table.column_names]


def _of_prompts(prompts: dict[str, pa.Array], sides: Mapping[str, pa.Table]) -> dict[str, Any]:
    """The ids of pairs, and what they have of their prompts, a row of `prompts` for each."""
    indices = [side["response_index"].cast(pa.string()) for side in sides.values()]
    pair_id = pc.binary_join_element_wise(prompts["prompt_id"], *indices, "-")
    names = ("prompt_id", "source", "source_file", "source_row", "columns_json", "group", *_numbers(prompts))
    return {"pair_id": pair_id, "prompt": prompts["messages"]} | {
        name: prompts[name] for name in names if name in prompts
    }


def _same_rows(responses: pa.Table, found: Pairing) -> bool:
    """Whether the responses of every pair are of one row of the source (a list), which the prompt has too."""
    row_R = responses["source_row"].to_numpy()
    return np.array_equal(row_R[found.chosen_P], row_R[found.rejected_P])


def _groups(sides: Mapping[str, pa.Table]) -> dict[str, Any]:
    """`group_SIDE` of responses that have groups of their own. A pair is in the group of both its responses, in none where they
    differ."""
    chosen, rejected = sides.values()
    if "group" not in chosen.column_names:
        return {}
    found: dict[str, Any] = {f"group_{side}": responses["group"] for side, responses in sides.items()}
    same = pc.fill_null(pc.equal(chosen["group"], rejected["group"]), False)
    return found | {"group": pc.if_else(same, chosen["group"], pa.scalar(None, pa.string()))}


def _names_of_responses(responses: pa.Table, found: Pairing) -> set[str]:
    """The other columns that differ between the responses of any pair: they belong to the responses."""
    names: set[str] = set()
    for start in range(0, len(found.chosen_P), _AT_A_TIME):
        sides = [
            taken(responses["columns_json"], row_P[start : start + _AT_A_TIME]).to_pylist()
            for row_P in (found.chosen_P, found.rejected_P)
        ]
        for texts in zip(*sides, strict=True):
            if texts[0] != texts[1]:
                chosen, rejected = map(json.loads, texts)
                names |= {name for name in {*chosen, *rejected} if chosen.get(name) != rejected.get(name)}
    return names


def _columns_of_sides(sides: Mapping[str, pa.Table], of_responses: set[str]) -> pa.Array:
    """The other columns of the two responses of each pair as one JSON document. Those `of_responses` go by NAME_chosen and
    NAME_rejected."""
    merged = []
    for texts in zip(*(side["columns_json"].to_pylist() for side in sides.values()), strict=True):
        documents = dict(zip(sides, map(json.loads, texts), strict=True))
        both = {**documents["chosen"], **documents["rejected"]}
        found = {name: value for name, value in both.items() if name not in of_responses}
        for side, document in documents.items():
            found |= {f"{name}_{side}": value for name, value in document.items() if name in of_responses}
        merged.append(lenient_json(found))
    return pa.array(merged, pa.string())


def assistant_turns(texts: pa.ChunkedArray) -> pa.Array:
    """Each text as a conversation of one assistant turn."""
    content = texts.combine_chunks()
    turns = pa.StructArray.from_arrays(
        [pa.repeat(pa.scalar("assistant"), len(content)), content], names=["role", "content"]
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(len(content) + 1, dtype=np.int32)), turns)
