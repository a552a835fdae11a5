"""What a round is flagged for, and that an ordinary round is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from selfplay.core.outcomes import Evaluation, Outcome, RoundOutcomes, from_json
from selfplay.core.stages import stage_named
from selfplay.inspect.documents import warnings
from selfplay.inspect.documents.engines import engine_lines
from selfplay.inspect.documents.show import show_document
from selfplay.run import plan
from selfplay.store.run import Store
from tests.helpers.make_run import make_run
from tests.helpers.outcomes import outcome_of


def test_few_steps_means_the_same_as_in_the_plan() -> None:
    assert warnings.FEW_STEPS == plan.FEW_STEPS


def test_ordinary_round(whole_run: Path) -> None:
    # the small run has a prompt too long and a response without a reward on purpose
    found = show_document(Store.open(whole_run), 2)["warnings"]
    assert [warning["name"] for warning in found] == ["prompts_dropped", "unscored"]
    assert all(warning["message"] and warning["hint"] for warning in found)


@pytest.mark.parametrize(("gold_gain", "flagged"), [(-0.05, True), (0.0, True), (0.05, False)])
def test_over_optimisation_is_flagged_first(tmp_path: Path, gold_gain: float, flagged: bool) -> None:
    store = make_run(tmp_path / "run", rounds=1, gold_gain=gold_gain)
    found = show_document(store, 1)["warnings"]
    assert (found[0]["name"] == "over_optimised") is flagged
    assert not any(warning["name"] == "over_optimised" for warning in show_document(store, 0)["warnings"])


def test_engines_that_differ_are_named_with_what_was_seen() -> None:
    check = {
        "num_responses": 8, "error_max": 0.5, "error_mean": 0.1, "compared": "largest", "tolerance": 1e-4, "passed": False,
    }  # fmt: skip
    engine = {"engine": "transformers", "reason": "they differ by 0.5", "check": check}
    score = outcome_of("score", reward_engines={"reward.parts.helpful": engine})
    (found,) = warnings.round_warnings(RoundOutcomes([score]), None)
    assert (found["name"], found["message"]) == ("engine_rewards_differ", "they differ by 0.5")
    assert "reward.parts.helpful.engine: transformers" in found["hint"]
    assert engine_lines(RoundOutcomes([score])) == [
        "Rewards of transformers (reward.parts.helpful): they differ by 0.5."
    ]


def test_a_judge_that_failed_is_named_with_its_reasons() -> None:
    reasons = {f"reward_error: KeyError: {number}": 1 for number in range(40)} | {"reward_none": 7}
    score = outcome_of("score", num_responses=400, gold_drop_reasons=reasons)
    (found,) = warnings.round_warnings(RoundOutcomes([score]), None)
    assert found["message"].startswith("responses for which the gold judge failed, of 400: reward_none 7, reward_error")
    assert found["message"].endswith(", and 36 for other reasons")


REBUILT = {"how": "rebuilt", "seconds": 1.0, "canary_error": None, "canary_positions": 0, "reason": "NaN in a tensor"}


@pytest.mark.parametrize(
    ("stage", "metrics", "name"),
    [
        ("train", {"optimizer_steps": 9}, "few_steps"),
        ("train", {"changed_fraction": 0.004}, "few_weights_changed"),
        ("sample", {"weight_changes": [REBUILT]}, "engine_rebuilt"),
        ("sample", {"num_truncated": 20}, "truncated"),
        ("prompts", {"num_bad_rows": 1, "bad_rows": [{"file": "a", "row": 3, "reason": "empty"}]}, "bad_rows"),
        ("pair", {"num_pairs": 50, "num_prompts_paired": 2, "unused_reasons": {"zero_margin": 40}}, "few_pairs"),
        ("select", {"implicit_margin_all_zero": True}, "implicit_margin_zero"),
        ("score", {"gold_drop_reasons": {"reward_none": 3}}, "ungolded"),
        ("score", {"gold_lacks": ["answer"]}, "gold_not_on_training"),
        ("evaluate", {"eval_gold_drop_reasons": {"reward_none": 3}}, "ungolded"),
        ("evaluate", {"eval_truncated_fraction": 0.5}, "evaluation_truncated"),
        ("evaluate", {"eval_distinct_fraction": 0.2}, "repeated_responses"),
        ("evaluate", {"eval_num_tokens_mean": 30.0}, "longer_responses"),
    ],
)
def test_each_flag(whole_run: Path, stage: str, metrics: dict[str, Any], name: str) -> None:
    store = Store.open(whole_run)
    recorded = {outcome.stage: outcome for outcome in store.outcomes(2)}
    kind = stage_named(stage).outcome
    recorded[stage] = from_json(kind, {**recorded[stage].to_json(), **metrics})
    assert name in names(recorded.values(), store.outcomes(1).evaluation())


def test_a_skipped_training_is_flagged() -> None:
    assert names([outcome_of("train", skipped=True)], None) == {"training_skipped"}


def names(outcomes: Iterable[Outcome], previous: Evaluation | None) -> set[str]:
    return {warning["name"] for warning in warnings.round_warnings(RoundOutcomes(outcomes), previous)}
