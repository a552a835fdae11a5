"""The documents of the inspection commands: their keys are frozen, their numbers agree with the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.inspect.documents.pair import pair_document
from selfplay.inspect.documents.pairs import METADATA, pairs_document
from selfplay.inspect.documents.rounds import rounds_document
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.query.tables import rows_of
from selfplay.selection.pair_rules import PairRules
from selfplay.store.run import Store
from tests.helpers.make_run import make_run

ROUND_KEYS = [
    "round", "num_prompts", "num_responses", "num_pairs", "num_kept", "num_tokens", "num_truncated",
    "num_duplicates", "explicit_margin_mean", "implicit_margin_abs_mean", "length_gap_kept_mean", "train_reward_mean",
    "train_reward_parts",
    "eval_reward_mean", "eval_reward_parts", "eval_gold_mean", "eval_gold_ci_low", "eval_gold_ci_high", "eval_gold_greedy_mean",
    "eval_win_rate_vs_initial", "eval_win_rate_vs_previous", "eval_judge", "eval_num_tokens_mean", "eval_truncated_fraction",
    "eval_distinct_fraction", "eval_gain_vs_initial", "eval_gain_vs_initial_ci_low",
    "eval_gain_vs_initial_ci_high", "optimizer_steps", "skipped_training", "gates_forced", "tokens_per_second",
    "seconds", "stage_seconds", "complete",
]  # fmt: skip
SHOW_KEYS = [
    "schema_version", "round", "complete", "stages", "warnings", "funnel", "distributions", "sampling", "engines",
    "logprobs", "selection", "diagnostics",
    "training", "evaluation", "reward_parts", "timing", "stage_seconds", "seconds",
]  # fmt: skip
RESPONSE_KEYS = [
    "response_id", "prompt_id", "response_index", "seed", "num_tokens", "text", "finish_reason", "reward",
    "gold_reward", "policy_logp", "reference_logp", "use", "reason",
]  # fmt: skip


def test_rounds_have_the_frozen_keys_and_null_for_what_is_not_there(whole_run: Path) -> None:
    document = rounds_document(Store.open(whole_run))
    assert list(document) == ["schema_version", "rounds"]
    zero, one, two = document["rounds"]
    assert [list(row) for row in (zero, one, two)] == [ROUND_KEYS] * 3
    missing = {name for name, value in zero.items() if value is None}
    assert missing == {
        "num_prompts", "num_responses", "num_pairs", "num_kept", "num_tokens", "num_truncated",
        "num_duplicates", "explicit_margin_mean", "implicit_margin_abs_mean", "length_gap_kept_mean",
        "tokens_per_second", "train_reward_mean", "train_reward_parts", "eval_reward_parts", "eval_win_rate_vs_initial",
        "eval_win_rate_vs_previous", "optimizer_steps", "skipped_training", "gates_forced", "eval_gain_vs_initial",
            "eval_gain_vs_initial_ci_low", "eval_gain_vs_initial_ci_high",
    }  # fmt: skip
    assert (one["num_prompts"], one["num_responses"], one["num_pairs"], one["num_kept"]) == (12, 44, 11, 6)
    assert two["eval_gold_mean"] > one["eval_gold_mean"] > zero["eval_gold_mean"]
    assert one["seconds"] == 12.0
    assert one["tokens_per_second"] == pytest.approx(one["num_tokens"] / 1.25, abs=0.05)
    texts = Store.open(whole_run).table(1, "sample", columns=["prompt_id", "text"]).to_pylist()
    assert one["num_duplicates"] == 44 - len({(row["prompt_id"], row["text"]) for row in texts})
    json.dumps(document, allow_nan=False)


def test_round_under_way_shows_what_is_committed(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(1, "score"))
    zero, one = rounds_document(store)["rounds"]
    assert zero["complete"]
    assert not one["complete"]
    assert one["num_responses"] == 44
    assert one["num_pairs"] is None
    shown = show_document(store, 1)
    assert shown["stages"] == ["prompts", "sample"]
    assert shown["training"] is None
    assert [step["step"] for step in shown["funnel"]] == ["prompts", "admitted", "sampled"]


def test_show_accounts_for_every_response(whole_run: Path) -> None:
    document = show_document(Store.open(whole_run), 1)
    assert list(document) == SHOW_KEYS
    steps = {step["step"]: step for step in document["funnel"]}
    assert 2 * steps["paired"]["count"] + sum(steps["paired"]["lost"].values()) == steps["sampled"]["count"]
    assert steps["kept"]["count"] + sum(steps["kept"]["lost"].values()) == steps["paired"]["count"]
    margins = document["distributions"]["explicit_margin"]
    assert sum(row["count"] for row in margins["histogram"]) == margins["count"] == 11
    assert sum(row["num_kept"] for row in margins["histogram"]) == 6
    assert document["selection"]["effective_beta"] > 0
    assert "canaries" not in document["training"]
    lengths = document["distributions"]["num_tokens"]["histogram"]
    assert all(row["low"] == int(row["low"]) for row in lengths)
    assert sum(row["count"] for row in lengths) == 44


def test_show_of_round_zero_is_its_evaluation(whole_run: Path) -> None:
    document = show_document(Store.open(whole_run), 0)
    assert (document["funnel"], document["distributions"], document["selection"]) == ([], {}, None)
    assert document["evaluation"]["eval_judge"] == "gold"


def test_rounds_that_are_not_there_are_named(whole_run: Path) -> None:
    store = Store.open(whole_run)
    with pytest.raises(ConfigError, match="round 7 is not committed") as error:
        show_document(store, 7)
    assert "round 0, round 1, round 2" in error.value.hint
    with pytest.raises(ConfigError, match="round 0 has no select"):
        pairs_document(store, 0)


def test_pairs_are_sorted_filtered_and_limited(whole_run: Path) -> None:
    store = Store.open(whole_run)
    document = pairs_document(store, 1)
    assert (document["num_pairs"], document["num_matching"]) == (11, 11)
    assert list(document["pairs"][0]) == list(METADATA)
    assert [pair["rank"] for pair in document["pairs"]] == list(range(1, 12))
    best = pairs_document(store, 1, sort="explicit_margin", limit=3)["pairs"]
    every = [pair["explicit_margin"] for pair in document["pairs"]]
    assert [pair["explicit_margin"] for pair in best] == sorted(every, reverse=True)[:3]
    worst = pairs_document(store, 1, sort="explicit_margin", descending=False, limit=3)["pairs"]
    assert [pair["explicit_margin"] for pair in worst] == sorted(every)[:3]
    dropped = pairs_document(store, 1, kept=False)
    assert dropped["num_matching"] == 5
    assert not any(pair["kept"] for pair in dropped["pairs"])
    with_text = pairs_document(store, 1, limit=1, content=True)["pairs"][0]
    assert with_text["chosen"][0]["role"] == "assistant"
    with pytest.raises(ConfigError, match="there is no column 'explicit_margn'") as error:
        pairs_document(store, 1, sort="explicit_margn")
    assert "Did you mean explicit_margin?" in error.value.hint


@pytest.mark.parametrize("kept", [True, False])
def test_a_pair_comes_with_all_responses_of_its_prompt(whole_run: Path, kept: bool) -> None:
    store = Store.open(whole_run)
    wanted = pairs_document(store, 2, kept=kept)["pairs"][0]
    document = pair_document(store, wanted["pair_id"])
    assert list(document) == ["schema_version", "round", "pair", "prompt", "responses", "other_pairs"]
    assert document["other_pairs"] == []
    assert document["round"] == 2
    assert {name: document["pair"][name] for name in wanted} == wanted
    assert len(document["responses"]) == 4
    assert [list(response) for response in document["responses"]] == [RESPONSE_KEYS] * 4
    uses = {response["use"]: response for response in document["responses"]}
    assert uses["chosen"]["reward"] == wanted["reward_chosen"]
    assert uses["rejected"]["policy_logp"] == wanted["policy_logp_rejected"]
    assert all((response["use"] == "unused") == (response["reason"] is not None) for response in document["responses"])


def test_a_pair_comes_with_the_other_pairs_of_its_prompt(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", rounds=1, rules=PairRules(build="all", max_per_prompt=4))
    every = pairs_document(store, 1, limit=100)["pairs"]
    prompt = max((pair["prompt_id"] for pair in every), key=[pair["prompt_id"] for pair in every].count)
    same = [pair for pair in every if pair["prompt_id"] == prompt]
    assert len(same) == 4
    document = pair_document(store, same[1]["pair_id"])
    others = document["other_pairs"]
    assert [other["pair_id"] for other in others] == [same[row]["pair_id"] for row in (0, 2, 3)]
    assert [other["kept"] for other in others] == [same[row]["kept"] for row in (0, 2, 3)]
    uses = {response["response_id"]: response["use"] for response in document["responses"]}
    sides = {other[f"{side}_response_id"] for other in others for side in ("chosen", "rejected")}
    paired = {name for name, use in uses.items() if use != "unused"}
    assert sides | {same[1]["chosen_response_id"], same[1]["rejected_response_id"]} == paired


def test_unknown_pair_suggests_the_nearest(whole_run: Path) -> None:
    store = Store.open(whole_run)
    known = pairs_document(store, 1)["pairs"][0]["pair_id"]
    with pytest.raises(ConfigError, match="there is no pair") as error:
        pair_document(store, known[:-1] + "9")
    assert known in error.value.hint


def test_rows_are_taken_across_shards_in_the_order_asked_for(whole_run: Path) -> None:
    store = Store.open(whole_run)
    every = store.table(1, "sample")
    wanted = [40, 0, 23, 21, 22]
    table = store.lazy_table(1, "sample")
    assert table.take(wanted).equals(every.take(wanted).combine_chunks())
    assert table.take([]).num_rows == 0
    response_id = every["response_id"][30].as_py()
    assert table.rows_where("response_id", [response_id]).tolist() == [30]
    assert rows_of(store, 1, "sample", "response_id", [response_id]) == every.slice(30, 1).to_pylist()
