"""An optimizer step is cut into micro-batches by tokens; no pair is lost or doubled."""

from __future__ import annotations

import random
from typing import Any

import pytest

from selfplay.backends.trl.micro_batches import MicroBatches, most_padding, num_pairs


def rows(num: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    sides = ("prompt_ids", "chosen_ids", "rejected_ids")
    made: list[dict[str, Any]] = [{side: [5] * rng.randint(1, 40) for side in sides} for _ in range(num)]
    for number, row in enumerate(made):
        row |= {"ref_chosen_logps": float(number), "ref_rejected_logps": -float(number)}
    return made


@pytest.mark.parametrize("shares_prompts", [False, True])
def test_every_pair_is_in_one_micro_batch_within_the_budget(shares_prompts: bool) -> None:
    given = rows(37)
    batches = MicroBatches(max_tokens=200, max_pairs=5)
    batches.shares_prompts = shares_prompts
    made = batches(given)
    assert sorted(x for batch in made for x in batch["ref_chosen_logps"].tolist()) == [float(n) for n in range(37)]
    assert {num_pairs(batch) for batch in made} <= {1, 2, 3, 4, 5}
    for places in batches.cut(given):
        widest = max(
            len(given[place]["prompt_ids"]) + len(given[place]["chosen_ids"]) + len(given[place]["rejected_ids"])
            if shares_prompts
            else 2
            * (len(given[place]["prompt_ids"]) + max(len(given[place][f"{s}_ids"]) for s in ("chosen", "rejected")))
            for place in places
        )
        assert len(places) == 1 or widest * len(places) <= 200


def test_a_pair_longer_than_the_budget_is_a_micro_batch_of_its_own() -> None:
    long: dict[str, Any] = {side: [5] * 100 for side in ("prompt_ids", "chosen_ids", "rejected_ids")}
    assert [num_pairs(batch) for batch in MicroBatches(50, 8)([long, long])] == [1, 1]


def test_the_number_of_pairs_is_bounded_too() -> None:
    assert [num_pairs(batch) for batch in MicroBatches(10**6, 3)(rows(8))] == [3, 3, 2]


def test_padding_is_bounded_by_what_another_pass_costs() -> None:
    # 70, 50 and 30 tokens
    given = [{side: [5] * 5 for side in ("chosen_ids", "rejected_ids")} | {"prompt_ids": [5] * n} for n in (20, 10, 30)]
    assert MicroBatches(10**6, 8, 59).cut(given) == [[2, 0], [1]]
    assert MicroBatches(10**6, 8, 60).cut(given) == [[2, 0, 1]]
    # a pass costs as many tokens more as these are cheap
    assert [most_padding("cpu", size) for size in (500_000, 10_000_000)] == [232, 42]
    assert most_padding("cuda", 500_000) is None
