"""Filters of ready-made pairs: before anything is computed, after it, and on tables of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import ConfigError
from tests.helpers.tables import Select, dropped, kept, number_table, numbers, text_rows, write_rows


def reasons(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in dropped(root):
        found[row["drop_reason"]] = found.get(row["drop_reason"], 0) + 1
    return found


def test_rules_about_rewards_are_asked_when_the_rewards_are_computed(
    tmp_path: Path, tiny_world: Path, run: Select
) -> None:
    rows = text_rows(12, columns=False)
    for at, row in enumerate(rows):  # the reward is the number of letters
        row["chosen"][0]["content"] = "x" * (10 + at)
        row["rejected"][0]["content"] = "y" * 10
    flags = {"metric": "explicit_margin", "reward_model": str(tiny_world / "reward_model"), "keep": 1.0}
    rules = {"min_gap": 3, "min_reward_chosen": 16}
    run(write_rows(tmp_path / "a.jsonl", rows), pairs=rules, **flags)
    assert reasons(tmp_path / "out") == {"zero_margin": 1, "gap_too_small": 3, "reward_chosen_too_low": 2}


def test_a_length_gap_is_asked_when_tokens_are_counted(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    rows = text_rows(8, columns=False)
    for at, row in enumerate(rows):
        row |= {"reward_chosen": 1.0 + at, "reward_rejected": 0.0}
        row["chosen"][0]["content"] = "x" * (5 + at)
        row["rejected"][0]["content"] = "y" * 5
    run(
        write_rows(tmp_path / "a.jsonl", rows), pairs={"max_length_gap": 4}, policy=str(tiny_world / "policy"), keep=1.0
    )
    lengths = [abs(row["num_tokens_chosen"] - row["num_tokens_rejected"]) for row in dropped(tmp_path / "out")]
    assert reasons(tmp_path / "out") == {"length_gap_too_large": len(lengths)}
    assert lengths
    assert min(lengths) > 4


def test_a_table_of_numbers_is_filtered_too(tmp_path: Path, run: Select) -> None:
    columns = numbers(50)
    margin = columns["reward_chosen"] - columns["reward_rejected"]
    gap = abs(columns["num_tokens_chosen"] - columns["num_tokens_rejected"])
    run(number_table(tmp_path / "a.parquet"), metric="explicit_margin", pairs={"min_gap": 0.5, "max_length_gap": 20})
    found = reasons(tmp_path / "out")
    assert found["gap_too_small"] == (margin <= 0.5).sum()
    assert found["length_gap_too_large"] == ((margin > 0.5) & (gap > 20)).sum()


@pytest.mark.parametrize(
    ("rules", "columns", "words"),
    [
        ({"max_length_gap": 3}, ("explicit_margin",), "max_length_gap reads columns"),
        ({"min_gap": 0.1}, ("explicit_margin",), "min_gap reads columns"),
        ({"max_similarity": 0.9}, ("reward_chosen", "reward_rejected"), "compares texts"),
        ({"length_penalty": 0.1}, ("reward_chosen", "reward_rejected"), "the pairs exist already"),
    ],
)
def test_a_rule_that_cannot_be_asked_is_refused(
    tmp_path: Path, run: Select, rules: dict[str, Any], columns: tuple[str, ...], words: str
) -> None:
    rows: list[dict[str, Any]] = [dict.fromkeys(columns, float(at + ("chosen" in columns[0]))) for at in range(6)]
    for row in rows:
        row |= {"policy_logp_chosen": -1.0, "policy_logp_rejected": -2.0}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ConfigError, match=words):
        run(path, metric="explicit_margin", pairs=rules, keep=1.0)


@pytest.mark.parametrize("metric", ["explicit_margin", "alignment_potential", "rs_dpo"])
def test_a_margin_of_the_datasets_own_stands_for_the_rewards(tmp_path: Path, run: Select, metric: str) -> None:
    columns = numbers(30)
    margin = columns.pop("reward_chosen") - columns.pop("reward_rejected")
    rewards = {"reward_chosen": margin, "reward_rejected": 0 * margin}
    for name, own in (("margins", {"explicit_margin": margin}), ("rewards", rewards)):
        pq.write_table(pa.table({**columns, **own}), tmp_path / f"{name}.parquet")
        run(tmp_path / f"{name}.parquet", metric=metric, out=str(tmp_path / name))
    one, two = (
        [(row["pair_id"], row["metric_value"]) for row in kept(tmp_path / name)] for name in ("margins", "rewards")
    )
    assert one == two


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_groups_of_any_type_are_texts(tmp_path: Path, run: Select, kind: str) -> None:
    values: list[list[Any]] = [[1, 2, 2, None], [[1], [2], None, [2]], [0.5, 1.0, None, 1.0], [True, False, True, None]]
    for at, group in enumerate(values):
        rows = [{"reward_chosen": float(n), "reward_rejected": -1.0, "kind": one} for n, one in enumerate(group)]
        path = tmp_path / f"a{at}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            write_rows(path, rows)
        outcome = run(path, metric="explicit_margin", columns={"group": "kind"}, keep=0.5, out=str(tmp_path / f"o{at}"))
        names = {share["group"] for share in outcome.summary["diagnostics"]["groups"]["kind"]["shares"]}
        expected = {0: {"1", "2"}, 1: {"[1]", "[2]"}, 2: {"0.5", "1.0"}, 3: {"true", "false"}}[at]
        assert names == expected | {"(none)"}


def test_numbers_near_the_end_of_a_floats_range_are_ranked_and_written(tmp_path: Path, run: Select) -> None:
    rows = [{"reward_chosen": n * 1e200, "reward_rejected": -1.0, "policy_logp_chosen": -1.0 - n * n % 7,
             "policy_logp_rejected": -2.0, "num_tokens_chosen": 1, "num_tokens_rejected": 1, "kind": n % 2}
            for n in range(1, 21)]  # fmt: skip
    small = [{**row, "reward_chosen": row["reward_chosen"] / 1e200, "reward_rejected": -1e-200} for row in rows]
    found = []
    for name, one in (("large", rows), ("small", small)):
        for flags in ({}, {"group_column": "kind"}):
            run(write_rows(tmp_path / "a.jsonl", one), out=str(tmp_path / f"{name}{len(flags)}"), **flags)
            path = tmp_path / f"{name}{len(flags)}" / "kept"
            found.append(pq.read_table(path, partitioning=None)["pair_id"].to_pylist())
    assert found[0] == found[2]
    assert found[1] == found[3]


def test_a_rule_of_lengths_says_that_the_policy_counts(tmp_path: Path, run: Select) -> None:
    rows = [{"prompt": f"q{n}", "responses": ["a", "b c"], "rewards": [n, -1]} for n in range(4)]
    with pytest.raises(ConfigError, match="need the lengths") as found:
        run(write_rows(tmp_path / "a.jsonl", rows), metric="explicit_margin", pairs={"length_penalty": 0.1})
    assert "--policy MODEL (its tokenizer counts)" in found.value.hint
