"""Several datasets in one pool."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfplay.core.errors import ConfigError, DataError, DriftError
from selfplay.inspect.verify.verify import verify_document
from tests.helpers.tables import Fakes, Select, dropped, kept, number_table, text_rows, write_rows


def two(tmp_path: Path) -> dict[str, dict[str, Any]]:
    (tmp_path / "b").mkdir(exist_ok=True)
    rows = text_rows(20, seed=1)
    for row in rows:
        row["instruction"] = row.pop("prompt")[0]["content"] + " of the other"
        row["reward_chosen"] += 100.0
        row["rank_of_mine"] = 3
    first = write_rows(tmp_path / "a.jsonl", text_rows(30))
    second = write_rows(tmp_path / "b" / "a.jsonl", rows)
    return {"base": {"dataset": str(first)}, "extra": {"dataset": str(second)}}


@pytest.fixture
def several(run: Select, tmp_path: Path) -> Select:
    def call(sources: dict[str, Any], **settings: Any) -> Any:
        dataset = settings.pop("dataset", None)
        return run(dataset, sources=sources, **settings)

    return call


def test_one_pool_with_the_source_as_a_column(tmp_path: Path, several: Select) -> None:
    outcome = several(two(tmp_path), metric="explicit_margin", keep=20)
    rows = kept(tmp_path / "out") + dropped(tmp_path / "out")
    assert Counter(row["source"] for row in rows) == {"base": 30, "extra": 20}
    assert {row["source"] for row in kept(tmp_path / "out")} == {"extra"}  # whose margins are larger
    assert len({row["pair_id"] for row in rows}) == 50
    others = {row["source"]: json.loads(row["columns_json"]) for row in rows}
    assert others["extra"]["rank_of_mine"] == 3 and "rank_of_mine" not in others["base"]
    dataset = outcome.summary["dataset"]
    assert (dataset["name"], dataset["num_rows"]) == ("base + extra", 50)
    assert dataset["sources"]["extra"]["recognised"]["prompt"] == "instruction"
    assert outcome.summary["diagnostics"]["groups"]["source"]["num_groups"] == 2
    assert "few_groups" in {warning["name"] for warning in outcome.summary["diagnostics"]["warnings"]}
    assert verify_document(tmp_path / "out" / ".run", deep=True)["problems"] == []
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()


def test_a_part_of_an_additional_pool_joined_with_a_base_set(tmp_path: Path, several: Select) -> None:
    asked = {"keep": 1.0, "keep_per_group": {"base": 1.0, "extra": 5}, "group_column": "source"}
    several(two(tmp_path), **asked)
    assert Counter(row["source"] for row in kept(tmp_path / "out")) == {"base": 30, "extra": 5}
    alone = tmp_path / "alone"
    several({"extra": two(tmp_path)["extra"]}, keep=5, out=str(alone))
    best = {row["pair_id"] for row in kept(alone)}
    assert best == {row["pair_id"] for row in kept(tmp_path / "out") if row["source"] == "extra"}


def test_numbers_that_one_source_lacks_are_computed_for_all_or_missed(
    tmp_path: Path, several: Select, fakes: Fakes, scorer: Path
) -> None:
    sources = two(tmp_path)
    write_rows(Path(sources["base"]["dataset"]), text_rows(30, columns=False))
    with pytest.raises(ConfigError, match="needs reward_chosen, reward_rejected"):
        several(sources, metric="explicit_margin")
    outcome = several(sources, metric="explicit_margin", reward_function=f"{scorer}:reward")
    assert any("reward_chosen is not used: base has no such column" in note for note in outcome.summary["notes"])
    assert len(fakes.scorer.seen) == 100


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    (tmp_path / "scorer.py").write_text("def reward(prompt, response, topic):\n    return float(len(response))\n")
    return tmp_path / "scorer.py"


def test_what_does_not_go_together(tmp_path: Path, several: Select, scorer: Path) -> None:
    sources = two(tmp_path)
    table = {"numbers": {"dataset": str(number_table(tmp_path / "n.parquet"))}}
    with pytest.raises(DataError, match=r"base holds pairs with texts.*numbers holds pairs without texts"):
        several(sources | table)
    with pytest.raises(ConfigError, match="`dataset` and `sources` are both given"):
        several(sources, dataset="a.jsonl")
    with pytest.raises(ConfigError, match=r"`split` belongs to one source: set it under sources\.NAME\.split"):
        several(sources, split="train")
    with pytest.raises(ConfigError, match="cannot be called"):
        several({"a/b": sources["base"]})
    # a function names a column that only the rows of one source have
    rows = [{name: value for name, value in row.items() if name != "topic"} for row in text_rows(20, columns=False)]
    write_rows(Path(sources["extra"]["dataset"]), rows)
    with pytest.raises(ConfigError, match="topic"):
        several(sources, metric="explicit_margin", reward_function=f"{scorer}:reward")


def test_bad_rows_say_their_source_and_other_content_is_drift(tmp_path: Path, several: Select) -> None:
    sources = two(tmp_path)
    with Path(sources["extra"]["dataset"]).open("a") as file:
        file.write("{\n")
    outcome = several(sources)
    (bad,) = outcome.summary["bad_rows"]["examples"]
    assert (bad["file"], bad["row"]) == ("extra: a.jsonl", 21)
    write_rows(Path(sources["extra"]["dataset"]), text_rows(21))
    with pytest.raises(DriftError, match="the content of dataset has changed"):
        several(sources)


def test_responses_of_sources_in_two_shapes(tmp_path: Path, several: Select) -> None:
    lists = [
        {"prompt": f"q{row}", "responses": ["a", "bb"], "rewards": [float(row), -1.0], "mine": row} for row in range(5)
    ]
    rows = [
        {"prompt": f"q{row // 2}", "response": f"r{row}", "reward": float(row), "judge": row % 2} for row in range(10)
    ]
    sources = {
        "lists": {"dataset": str(write_rows(tmp_path / "a.jsonl", lists))},
        "rows": {"dataset": str(write_rows(tmp_path / "b.jsonl", rows))},
    }
    several(sources, metric="explicit_margin", keep=1.0)
    found = kept(tmp_path / "out")
    assert Counter(row["source"] for row in found) == {"lists": 5, "rows": 5}
    for row in found:  # a prompt that both have gives no pair of responses of two sources
        of = [row[f"{side}_response_id"].partition("/")[0] for side in ("chosen", "rejected")]
        assert of == [row["source"]] * 2
        other = json.loads(row["columns_json"])
        assert (
            other == {"mine": other.get("mine")}
            if row["source"] == "lists"
            else {*other} == {"judge_chosen", "judge_rejected"}
        )
