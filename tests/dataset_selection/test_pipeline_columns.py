"""Columns that are read for one thing and wanted for another: groups, numbers of prompts, lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfplay.core.protocols import ScoreItem
from tests.helpers.tables import Fakes, Select, dropped, kept, number_table, numbers, text_rows, write_rows


@pytest.fixture
def columns_seen(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The other columns that the reward was given."""
    seen: list[dict[str, Any]] = []
    score = fakes.scorer.score

    def spied(items: list[ScoreItem]) -> Any:
        seen.extend(dict(item.columns) for item in items)
        return score(items)

    monkeypatch.setattr(fakes.scorer, "score", spied)
    return seen


def test_a_group_and_a_metrics_own_column_still_reach_the_reward(
    tmp_path: Path, run: Select, columns_seen: list[dict[str, Any]]
) -> None:
    (tmp_path / "judge.py").write_text("def judge(prompt, response, topic, level):\n    return len(response) + level\n")
    (tmp_path / "own.py").write_text("def own(explicit_margin, level):\n    return explicit_margin * level\n")
    rows = [{**row, "level": at, "topic": [at % 2]} for at, row in enumerate(text_rows(8, columns=False))]
    run(
        write_rows(tmp_path / "a.jsonl", rows), reward_function=f"{tmp_path}/judge.py:judge", group_column="topic",
        metric=f"{tmp_path}/own.py:own",
    )  # fmt: skip
    assert [(row["topic"], row["level"]) for row in columns_seen[:8]] == [([at % 2], at) for at in range(8)]
    found = kept(tmp_path / "out") + dropped(tmp_path / "out")
    assert {row["group"] for row in found} == {"[0]", "[1]"}
    assert all(json.loads(row["columns_json"])["level"] == row["level"] for row in found)


def scored(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"q{n}", "responses": ["a", "b", "c"], "rewards": [n, 1.5, -2.0 - n], "policy_logps": [-1, -2, -3],
         "nums_tokens": [1, 2, 3], "prompt_entropy": n * 0.5, "level": n, "reward_fresh": n}
        for n in range(count)
    ]  # fmt: skip


def as_response_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = ("prompt", "prompt_entropy", "level", "reward_fresh")
    return [
        {**{name: row[name] for name in own}, "response": text, "reward": reward, "policy_logp": -1 - at,
         "num_tokens": at + 1}
        for row in rows
        for at, (text, reward) in enumerate(zip(row["responses"], row["rewards"], strict=True))
    ]  # fmt: skip


@pytest.mark.parametrize("shape", ["lists", "rows"])
@pytest.mark.parametrize("metric", ["apl", "fdpo", "own"])
def test_a_prompts_numbers_reach_the_pairs_built_from_it(tmp_path: Path, run: Select, metric: str, shape: str) -> None:
    (tmp_path / "own.py").write_text("def own(explicit_margin, level):\n    return level + 0 * explicit_margin\n")
    rows = scored(6) if shape == "lists" else as_response_rows(scored(6))
    source = write_rows(tmp_path / "a.jsonl", rows)
    run(source, metric=f"{tmp_path}/own.py:own" if metric == "own" else metric, pairs="all", keep=1.0)
    name = {"apl": "prompt_entropy", "fdpo": "reward_fresh", "own": "level"}[metric]
    found = kept(tmp_path / "out")
    found += dropped(tmp_path / "out") if (tmp_path / "out" / "dropped").exists() else []
    assert len(found) > 12
    for row in found:
        expected = int(row["prompt"][0]["content"][1:]) * (0.5 if name == "prompt_entropy" else 1)
        assert row[name] == expected
    if metric == "own":
        assert all(row["metric_value"] == row["level"] for row in found)


def test_rows_that_disagree_on_their_prompts_number_are_said(tmp_path: Path, run: Select) -> None:
    rows = as_response_rows(scored(3))
    rows[1]["prompt_entropy"] = 7.0
    rows[5]["prompt_entropy"] = None
    outcome = run(write_rows(tmp_path / "a.jsonl", rows), metric="apl", keep=1.0)
    assert any("in 2 prompts the rows have different numbers" in note for note in outcome.summary["notes"])
    assert sorted(row["prompt_entropy"] for row in kept(tmp_path / "out")) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("drop", [(), ("prompt_reward_std",), ("prompt_reward_mean", "prompt_reward_std")])
@pytest.mark.parametrize("texts", [True, False])
def test_high_mean_low_variance_ranks_what_it_says_it_can(
    tmp_path: Path, run: Select, drop: tuple[str, ...], texts: bool
) -> None:
    rows = text_rows(12)
    columns = numbers(12)
    for at, row in enumerate(rows):
        for name in drop:
            row.pop(name, None)
        if "prompt_reward_mean" not in drop:
            row["prompt_reward_mean"] = float(at)
        if "prompt_reward_std" not in drop:
            row["prompt_reward_std"] = 1.0
        if not texts:
            del row["prompt"], row["chosen"], row["rejected"]
    run(write_rows(tmp_path / "a.jsonl", rows), metric="high_mean_low_variance", keep=1.0)
    found = kept(tmp_path / "out")
    assert len(found) == 12
    both = sorted(((columns["reward_chosen"] + columns["reward_rejected"]) / 2).tolist())
    means = sorted(row["prompt_reward_mean"] for row in found)
    assert means == (both if "prompt_reward_mean" in drop else [float(at) for at in range(12)])


def test_a_large_table_of_numbers_gets_no_columns_that_nobody_asked_for(tmp_path: Path, run: Select) -> None:
    run(number_table(tmp_path / "a.parquet"), metric="explicit_margin")
    assert "prompt_reward_mean" not in pq.read_schema(tmp_path / "out" / "kept" / "part-00000.parquet").names


def test_every_response_has_its_length_in_tokens(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    rows = text_rows(10, columns=False)
    for row in rows:
        row |= {"reward_chosen": 1.0, "reward_rejected": 0.0}
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[5]["reward_chosen"] = 0.0
    rows[7]["chosen"][0]["content"] = "x" * 600
    run(write_rows(tmp_path / "a.jsonl", rows), policy=str(tiny_world / "policy"))
    names = ("num_prompt_tokens", "num_tokens_chosen", "num_tokens_rejected")
    lengths = {row["source_row"]: [row[name] for name in names] for row in dropped(tmp_path / "out")}
    assert {3, 6, 8} <= {*lengths}
    assert all(length > 0 for row in lengths.values() for length in row)
    schema = pq.read_schema(tmp_path / "out" / "kept" / "part-00000.parquet")
    assert {str(schema.field(name).type) for name in names} == {"int64"}


def test_each_response_keeps_the_columns_of_its_own_row(
    tmp_path: Path, run: Select, columns_seen: list[dict[str, Any]]
) -> None:
    rows = [
        {"prompt": f"q{n // 2}", "response": "long answer" if n % 2 else "a", "helpfulness": n % 2, "topic": n // 2}
        for n in range(8)
    ]
    (tmp_path / "judge.py").write_text("def judge(prompt, response, helpfulness):\n    return helpfulness\n")
    run(write_rows(tmp_path / "a.jsonl", rows), reward_function=f"{tmp_path}/judge.py:judge", metric="full", keep=1.0)
    assert [row["helpfulness"] for row in columns_seen] == [0, 1] * 4
    for row in kept(tmp_path / "out"):
        columns = json.loads(row["columns_json"])
        assert columns == {
            "helpfulness_chosen": 1,
            "helpfulness_rejected": 0,
            "topic": int(row["prompt"][0]["content"][1:]),
        }


def test_pairs_of_response_rows_say_where_both_responses_are_from(tmp_path: Path, run: Select) -> None:
    rows = [
        {"prompt": f"q{row // 2}", "response": f"r{row}", "reward": row, "model": ("m", "n", "m", "m")[row]}
        for row in (0, 2, 1, 3)
    ]
    found = run(write_rows(tmp_path / "a.jsonl", rows), metric="explicit_margin", keep=1.0, columns={"group": "model"})
    pairs = sorted(kept(tmp_path / "out"), key=lambda pair: pair["prompt"][0]["content"])
    assert [(pair["source_row_chosen"], pair["source_row_rejected"]) for pair in pairs] == [(3, 1), (4, 2)]
    assert [(pair["group_chosen"], pair["group_rejected"], pair["group"]) for pair in pairs] == [
        ("n", "m", None), ("m", "m", "m")
    ]  # fmt: skip
    assert any("In 1 of 2 pairs the two responses are of different groups" in note for note in found.summary["notes"])
