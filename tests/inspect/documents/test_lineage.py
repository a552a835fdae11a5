"""What the report is made of: lineage, overlap of prompts, and examples, as documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfplay.inspect.documents.examples import example_answers, example_pairs
from selfplay.inspect.documents.lineage import lineage_document
from selfplay.inspect.documents.overlap import overlap_document
from selfplay.store.run import Store
from tests.helpers.make_run import make_run

POLICY_KEYS = {
    "round", "policy_digest", "commit", "trained_from", "reference", "num_pairs", "optimizer_steps", "same_as", "selects",
    "inherited", "files_removed",
}  # fmt: skip


def test_lineage_goes_from_policy_to_policy_by_commit(whole_run: Path) -> None:
    store = Store.open(whole_run)
    document = lineage_document(store)
    assert list(document) == ["schema_version", "run_id", "forked_from", "policies"]
    zero, one, two = document["policies"]
    assert all({*policy} == POLICY_KEYS for policy in (zero, one, two))
    assert (zero["commit"], zero["trained_from"], zero["selects"]) == (store.digest_of(0, "evaluate"), None, [])
    assert [(row["trained_from"], row["reference"]) for row in (one, two)] == [(0, 0), (1, 1)]
    assert two["commit"] == store.digest_of(2, "train")
    assert two["selects"] == [{"round": 2, "commit": store.digest_of(2, "select")}]


def test_after_a_skipped_round_the_policy_before_it_is_trained_on(tmp_path: Path) -> None:
    skipped = {"skipped": True, "policy_round": 1, "policy_digest": "c" * 64}
    fields: dict[tuple[int, str], dict[str, Any]] = {(2, "train"): skipped}
    rows = lineage_document(make_run(tmp_path / "run", rounds=3, fields=fields))["policies"]
    assert (rows[2]["same_as"], rows[2]["trained_from"]) == (1, None)
    assert (rows[3]["same_as"], rows[3]["trained_from"], rows[3]["reference"]) == (None, 1, 1)


def test_overlap_counts_the_prompts_that_two_rounds_share(whole_run: Path, tmp_path: Path) -> None:
    document = overlap_document(Store.open(whole_run))
    # make_run names prompts by round
    assert document == {
        "schema_version": 1, "rounds": [0, 1, 2], "num_prompts": [6, 12, 12], "shared": [[6, 0, 0], [0, 12, 0], [0, 0, 12]],
    }  # fmt: skip
    assert overlap_document(make_run(tmp_path / "run", stop=(0, "prompts")))["rounds"] == []


def test_examples_are_the_same_each_time_and_of_the_seed(whole_run: Path) -> None:
    store = Store.open(whole_run)
    found = example_pairs(store, 1, seed=0, num=3)
    assert found == example_pairs(store, 1, seed=0, num=3)
    assert [len(found[name]) for name in ("kept", "dropped")] == [3, 3]
    assert all(row["kept"] for row in found["kept"]) and not any(row["kept"] for row in found["dropped"])
    assert found["kept"][0]["chosen"][0]["role"] == "assistant"
    chosen = {tuple(row["pair_id"] for row in example_pairs(store, 1, seed, 3)["kept"]) for seed in range(8)}
    assert len(chosen) > 1
    assert [len(rows) for rows in example_pairs(store, 1, seed=0, num=100).values()] == [6, 5]


@pytest.mark.parametrize("num", [1, 2])
def test_answers_follow_one_prompt_through_the_rounds(whole_run: Path, num: int) -> None:
    found = example_answers(Store.open(whole_run), [0, 1, 2], seed=0, num=num)
    assert len(found) == num
    for prompt in found:
        assert [(answer["mode"], answer["round"]) for answer in prompt["answers"]] == [
            (mode, number) for mode in ("sampled", "greedy") for number in (0, 1, 2)
        ]
        assert {answer["prompt_id"] for answer in prompt["answers"]} == {prompt["prompt_id"]}
        assert prompt["messages"][0]["role"] == "user"
