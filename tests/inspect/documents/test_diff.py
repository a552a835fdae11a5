"""What `diff` finds between rounds and between runs, against the tables themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from selfplay.core.errors import ConfigError
from selfplay.inspect.documents import diff
from selfplay.inspect.documents.diff import Side, diff_document, parse_side
from selfplay.inspect.documents.rounds import round_summary
from selfplay.selection.pair_rules import PairRules
from selfplay.store.run import Store
from tests.helpers.make_run import make_run


def test_rounds_of_one_run(whole_run: Path) -> None:
    store = Store.open(whole_run)
    document = diff_document(Side(store, 0), Side(store, 2), content=True, limit=3)
    assert list(document) == ["schema_version", "a", "b", "config", "metrics", "responses"]
    assert document["config"] == []
    numbers = {row["name"]: row for row in document["metrics"]}
    assert numbers["num_kept"] == {"name": "num_kept", "a": None, "b": 6, "change": None}
    one, other = (round_summary(store, number).eval_gold_mean for number in (0, 2))
    assert numbers["eval_gold_mean"]["change"] == pytest.approx(other - one) == pytest.approx(0.2)
    found = document["responses"]
    assert (found["kind"], found["judge"], found["num_prompts"]) == ("held-out", "gold", 6)
    assert (found["num_better"], found["num_worse"], found["num_equal"]) == (6, 0, 0)
    assert found["change_mean"] == pytest.approx(0.2)
    assert found["change_ci_low"] <= found["change_mean"] <= found["change_ci_high"]
    assert len(found["prompts"]) == 3
    for prompt in found["prompts"]:
        assert prompt["change"] == pytest.approx(prompt["b"] - prompt["a"])
        assert prompt["messages"][0]["role"] == "user"
        assert [response["mode"] for response in prompt["responses_b"]] == ["sampled", "greedy"]
        assert {response["response_id"].split("-e")[1][:3] for response in prompt["responses_a"]} == {"000"}
        assert prompt["responses_a"][0]["text"] == f"answer {prompt['prompt_id']}"
    without = diff_document(Side(store, 0), Side(store, 2))["responses"]["prompts"]
    assert not any("messages" in prompt or "text" in prompt["responses_a"][0] for prompt in without)


def test_the_largest_change_comes_first_and_unknown_ones_last(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(whole_run)
    gains = [0.1, -0.5, None, 0.3, 0.0, 0.5]
    original = diff._judged

    def changed(side: Side, kind: str):  # type: ignore[no-untyped-def]
        table = original(side, kind)
        values = [None if side.round and gain is None else side.round * (gain or 0.0) for gain in gains]
        return table.set_column(table.schema.get_field_index("gold_reward"), "gold_reward", [values])

    monkeypatch.setattr(diff, "_judged", changed)
    found = diff_document(Side(store, 0), Side(store, 1))["responses"]
    assert [prompt["change"] for prompt in found["prompts"]] == [-0.5, 0.5, 0.3, 0.1, 0.0, None]
    assert (found["num_better"], found["num_worse"], found["num_equal"]) == (3, 1, 1)
    assert found["change_mean"] == pytest.approx(0.08)


def test_two_runs(whole_run: Path, tmp_path: Path) -> None:
    rules = PairRules(build="all", max_per_prompt=2)
    other = make_run(tmp_path / "other", rounds=1, rules=rules, gold_gain=-0.2)
    document = diff_document(Side(Store.open(whole_run), 1), Side(other, 1))
    assert {row["name"]: (row["a"], row["b"]) for row in document["config"]} == {
        "pairs.build": ("best_worst", "all"), "pairs.max_per_prompt": (None, 2), "rounds": (2, 1),
    }  # fmt: skip
    assert document["responses"]["num_worse"] == 6
    assert {row["name"]: row["change"] for row in document["metrics"]}["num_pairs"] > 0
    training = diff_document(Side(Store.open(whole_run), 1), Side(other, 1), kind="training")["responses"]
    assert (training["kind"], training["num_prompts"], training["judge"]) == ("training", 11, "reward")
    assert training["num_equal"] == 11
    rewards = [response["reward"] for response in training["prompts"][0]["responses_a"]]
    table = other.table(1, "sample").append_column("reward", other.table(1, "score")["reward"])
    mine = table.filter(pc.equal(table["prompt_id"], training["prompts"][0]["prompt_id"]))
    assert rewards == mine["reward"].to_pylist()


def test_prompts_of_one_side_are_counted(whole_run: Path) -> None:
    store = Store.open(whole_run)
    found = diff_document(Side(store, 1), Side(store, 2), kind="training")["responses"]
    assert (found["num_prompts"], found["num_only_a"], found["num_only_b"]) == (0, 11, 11)
    assert (found["change_mean"], found["prompts"]) == (None, [])


def test_sides_as_they_are_given(whole_run: Path, tmp_path: Path) -> None:
    assert parse_side(str(whole_run)).round == 2
    first = parse_side(f"{whole_run}@1")
    assert (first.round, first.store.layout.root) == (1, whole_run)
    assert parse_side("@0", first).store is first.store
    # a folder may be called so
    odd = Path(shutil.copytree(whole_run, tmp_path / "run@7"))
    assert parse_side(str(odd)).store.layout.root == odd
    assert parse_side(f"{odd}@1").round == 1
    with pytest.raises(ConfigError, match="round 9 is not committed"):
        parse_side(f"{whole_run}@9")
    with pytest.raises(ConfigError, match="does not exist"):
        parse_side(str(tmp_path / "absent@1"))
    begun = make_run(tmp_path / "begun", stop=(0, "prompts")).layout.root
    with pytest.raises(ConfigError, match="has no round yet"):
        parse_side(str(begun))
    with pytest.raises(ConfigError, match="no 'golden' responses"):
        diff_document(first, first, kind="golden")
    with pytest.raises(ConfigError, match="round 0 has no sample"):
        diff_document(parse_side(f"{whole_run}@0"), first, kind="training")


def test_a_round_under_way_has_no_responses_to_compare(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(1, "sample"))
    assert diff_document(Side(store, 0), Side(store, 1))["responses"] is None
