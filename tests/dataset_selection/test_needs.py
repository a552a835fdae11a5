"""What is computed, what is refused, and what is said to be missing."""

from __future__ import annotations

from typing import Any

import pytest

from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.needs import Needs, find_needs
from selfplay.dataset_selection.settings import load_settings
from selfplay.selection.metrics import find_metric
from selfplay.selection.metrics.inputs import NUM_TOKENS, POLICY_LOGPS, REFERENCE_LOGPS, REWARDS

DPO = {"implicit_margin": "dpo", "beta": 0.1}


def needs(metric: str, there: tuple[str, ...] = (), *, has_text: bool = True, **flags: Any) -> Needs:
    settings, _ = load_settings({"dataset": "a", "out": "b", "keep": 0.5, "metric": metric, **flags})
    return find_needs(settings, find_metric(metric), there, has_text=has_text)


def test_only_what_is_missing_is_computed() -> None:
    assert needs("alignment_potential", REWARDS + POLICY_LOGPS + NUM_TOKENS) == Needs()
    assert needs("alignment_potential", REWARDS, policy="p") == Needs(tokens=True, policy_logps=True)
    assert needs("alignment_potential", policy="p", reward_model="r") == Needs(
        rewards=True, tokens=True, policy_logps=True
    )
    assert needs("alignment_potential", REWARDS + POLICY_LOGPS, policy="p") == Needs(tokens=True)
    assert needs("explicit_margin", reward_function="m:f") == Needs(rewards=True)
    assert needs("explicit_margin", ("explicit_margin",)) == Needs()
    assert needs("random") == Needs()
    found = needs("alignment_potential", REWARDS, policy="p", reference="r", **DPO)
    assert found == Needs(tokens=True, policy_logps=True, reference_logps=True)


def test_a_reference_makes_the_margin_also_where_one_is_given() -> None:
    there = (*REWARDS, "implicit_margin")
    assert needs("alignment_potential", there, **DPO) == Needs()
    found = needs("alignment_potential", there, policy="p", reference="r", **DPO)
    assert found == Needs(tokens=True, policy_logps=True, reference_logps=True)
    with pytest.raises(ConfigError) as refused:
        needs("alignment_potential", there, policy="p", reference="r")
    assert refused.value.hint == (
        "Leave it out to rank by the implicit margins that the dataset has, or give --implicit-margin dpo --beta 0.1."
    )
    with pytest.raises(ConfigError) as refused:
        needs("explicit_margin", REWARDS, policy="p", reference="r", **DPO)
    assert refused.value.hint == "Leave it out."


@pytest.mark.parametrize(
    ("metric", "field"), [("ifd", "alone"), ("ask_llm", "yes"), ("density", "embedding")]
)  # fmt: skip
def test_a_metric_gets_just_the_pass_it_reads(metric: str, field: str) -> None:
    found = needs(metric, POLICY_LOGPS + NUM_TOKENS, policy="p")
    passes = {name for name in ("alone", "yes", "embedding", "policy_logps", "reference_logps") if getattr(found, name)}
    assert passes == {field}


def test_rewards_give_the_statistics_of_the_prompt() -> None:
    assert needs("high_mean_low_variance", REWARDS) == Needs()


@pytest.mark.parametrize(
    ("metric", "there", "flags", "said"),
    [
        ("alignment_potential", (), {}, ["--reward-model", "--policy", "--columns reward_chosen=COLUMN"]),
        ("alignment_potential", REWARDS, {}, ["--policy", "policy_logp_chosen"]),
        ("alignment_potential", REWARDS + POLICY_LOGPS, {}, ["num_tokens_chosen", "--policy"]),
        ("alignment_potential", REWARDS + POLICY_LOGPS, DPO, ["--reference", "reference_logp_rejected"]),
        ("explicit_margin", (), {}, ["--reward-function"]),
        ("ifd", (), {}, ["--policy"]),
        ("ask_llm", (), {}, ["--policy"]),
        ("density", (), {}, ["--embedding-model"]),
        ("apl", POLICY_LOGPS + NUM_TOKENS, {}, ["prompt_entropy"]),
        ("bees", REWARDS, {}, ["seed_implicit_margin"]),
        ("fdpo", REWARDS, {}, ["reward_fresh"]),
        ("selective_dpo", REWARDS, {}, ["validation_loss"]),
    ],
)  # fmt: skip
def test_missing_inputs_are_named_with_ways_to_get_them(
    metric: str, there: tuple[str, ...], flags: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as found:
        needs(metric, there, **flags)
    text = str(found.value)
    assert metric in text
    assert all(word in text for word in said)


def test_responses_beside_the_pairs_are_a_way_to_rewards() -> None:
    settings, _ = load_settings({"dataset": "a", "out": "b", "keep": 0.5, "metric": "explicit_margin"})
    metric = find_metric("explicit_margin")
    with pytest.raises(ConfigError, match=r"'all_generated_responses': --pairs best_worst"):
        find_needs(settings, metric, (), has_text=True, several="all_generated_responses")


@pytest.mark.parametrize(
    ("metric", "there", "flags", "said"),
    [
        ("explicit_margin", REWARDS, {"reward_model": "r"}, "reward_model does nothing"),
        ("explicit_margin", REWARDS, {"reward_function": "m:f"}, "reward_function does nothing"),
        ("alignment_potential", REWARDS, {"policy": "p", "reference": "q"}, "reference does nothing"),
        (
            "alignment_potential", REWARDS + REFERENCE_LOGPS, {"policy": "p", "reference": "q", **DPO},
            "reference does nothing",
        ),
        ("alignment_potential", REWARDS + POLICY_LOGPS + NUM_TOKENS, {"policy": "p"}, "policy does nothing"),
        ("explicit_margin", REWARDS, {"embedding_model": "e"}, "embedding_model does nothing"),
    ],
)  # fmt: skip
def test_a_model_that_would_do_nothing_is_refused(
    metric: str, there: tuple[str, ...], flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        needs(metric, there, **flags)


def test_a_table_of_numbers_has_nothing_to_compute_from() -> None:
    with pytest.raises(ConfigError, match="table of numbers"):
        needs("alignment_potential", REWARDS, policy="p", has_text=False)
