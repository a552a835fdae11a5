"""The numbers of a comparison against a slow reading of its runs' tables, and what is shown of them."""

from __future__ import annotations

import csv
import io
import json
import statistics as slow
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from selfplay.compare.report import charts, markdown, tables
from selfplay.core.errors import ConfigError
from selfplay.store.run import Store
from tests.helpers.comparing import run_compare

Row = dict[str, Any]


@pytest.fixture(scope="module")
def document(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished / "results.json").read_text())
    return found


def means_of(store: Store, number: int, mode: str, column: str) -> dict[str, float]:
    by_prompt = defaultdict(list)
    for row in store.table(number, "evaluate").to_pylist():
        if row["mode"] == mode:
            by_prompt[row["prompt_id"]].append(row[column])
    return {prompt: slow.mean(values) for prompt, values in by_prompt.items()}


def row_of(document: dict[str, Any], arm: str, number: int) -> Row:
    (row,) = [row for row in document["rows"] if (row["arm"], row["round"]) == (arm, number)]
    return dict(row)


def test_rows_are_what_the_tables_hold(finished: Path, document: dict[str, Any]) -> None:
    (block,) = (finished / "runs").iterdir()
    control, arm = Store.open(block / "random"), Store.open(block / "explicit_margin")
    for number in (1, 2):
        row = row_of(document, "explicit_margin", number)
        for mode, name in (("sampled", "difference"), ("greedy", "difference_greedy")):
            ours, theirs = (means_of(store, number, mode, "gold_reward") for store in (arm, control))
            differences = [ours[prompt] - theirs[prompt] for prompt in ours]
            assert row[name] == pytest.approx(slow.mean(differences))
            half = 2.262157 * slow.stdev(differences) / len(differences) ** 0.5
            assert row[f"{name}_low"] == pytest.approx(row[name] - half, abs=1e-5)
            assert row[f"{name}_high"] == pytest.approx(row[name] + half, abs=1e-5)
        gains = {}
        for column, name in (("reward", "reward_gain"), ("gold_reward", "gold_gain")):
            now, start = means_of(arm, number, "sampled", column), means_of(arm, 0, "sampled", column)
            gains[name] = slow.mean(now[prompt] - start[prompt] for prompt in now) / slow.pstdev(start.values())
            assert row[name] == pytest.approx(gains[name])
        assert row["over_optimization"] == pytest.approx(gains["reward_gain"] - gains["gold_gain"])
        assert row["gold_mean"] == pytest.approx(slow.mean(means_of(arm, number, "sampled", "gold_reward").values()))
        assert row["gold_greedy_mean"] == pytest.approx(
            slow.mean(means_of(arm, number, "greedy", "gold_reward").values())
        )
        gold = {row["response_id"]: row["gold_reward"] for row in arm.table(number, "score").to_pylist()}
        kept = [row for row in arm.table(number, "select").to_pylist() if row["kept"]]
        wrong = [gold[pair["chosen_response_id"]] < gold[pair["rejected_response_id"]] for pair in kept]
        assert row["wrong_labels"] == sum(wrong) / len(wrong)
        assert row["num_kept"] == len(kept)
    assert row_of(document, "random", 1)["difference"] is None
    assert row_of(document, "explicit_margin", 0)["difference"] == 0
    assert row_of(document, "explicit_margin", 0)["gold_mean"] == row_of(document, "random", 0)["gold_mean"]


def test_overlaps_and_groups_are_counted(finished: Path, document: dict[str, Any]) -> None:
    (block,) = (finished / "runs").iterdir()
    kept, topics = {}, {}
    for name in ("random", "explicit_margin"):
        store = Store.open(block / name)
        pairs = store.table(1, "select").to_pylist()
        kept[name] = {row["pair_id"] for row in pairs if row["kept"]}
        topic = {
            row["prompt_id"]: str(json.loads(row["columns_json"])["topic"])
            for row in store.table(1, "prompts").to_pylist()
        }
        topics[name] = [[topic[row["prompt_id"]] for row in pairs if row["kept"] or side] for side in (0, 1)]
    both = len(kept["random"] & kept["explicit_margin"])
    found = {(row["arm"], row["other"]): row for row in document["overlap"]}
    assert found["random", "explicit_margin"]["share"] == both / len(kept["random"])
    assert found["random", "explicit_margin"]["jaccard"] == both / len(kept["random"] | kept["explicit_margin"])
    for row in document["groups"]:
        mine, pool = topics[row["arm"]]
        assert row["kept"] == mine.count(row["group"]) / len(mine)
        assert row["pool"] == pool.count(row["group"]) / len(pool)


def test_blocks_are_summed_up(finished: Path, out: Path) -> None:
    found = run_compare(out, num_seeds=2, trust_code=True)
    rows = [row for row in found["rows"] if (row["arm"], row["round"]) == ("explicit_margin", 2)]
    (summed,) = [row for row in found["summary"] if (row["arm"], row["round"]) == ("explicit_margin", 2)]
    differences = [row["difference"] for row in rows]
    assert len(differences) == summed["num_blocks"] == 2
    assert summed["difference"]["mean"] == pytest.approx(slow.mean(differences))
    assert summed["difference"]["se"] == pytest.approx(slow.stdev(differences) / 2**0.5)
    assert summed["difference_over_worlds"] is None
    text = (out / "report.md").read_text()
    assert "± " in text and "random" in text


def test_the_document_is_frozen(document: dict[str, Any]) -> None:
    assert [*document] == [
        "schema_version", "control", "judge", "worlds", "num_seeds", "rounds", "equal", "steps", "arms", "num_runs",
        "num_done", "failed", "summary", "overlap", "by", "groups", "rows",
    ]  # fmt: skip
    assert [*document["rows"][0]] == [
        "block", "world", "seed", "arm", "equal", "round", "gold_mean", "gold_low", "gold_high", "gold_greedy_mean",
        "reward_mean", "reward_greedy_mean", "num_tokens_mean", "truncated_fraction", "distinct_fraction", "distinct_2",
        "optimizer_steps", "num_pairs", "num_kept", "seconds_train", "reward_gain", "gold_gain", "over_optimization",
        "wrong_labels", "tied_labels", "difference", "difference_low", "difference_high", "difference_greedy",
        "difference_greedy_low", "difference_greedy_high",
    ]  # fmt: skip


def test_the_csv_is_the_rows(finished: Path, document: dict[str, Any]) -> None:
    rows = [*csv.DictReader(io.StringIO((finished / "results.csv").read_text()))]
    assert len(rows) == len(document["rows"])
    for found, wanted in zip(rows, document["rows"], strict=True):
        assert found == {name: "" if value is None else str(value) for name, value in wanted.items()}


def test_an_unknown_column_names_what_there_is(out: Path) -> None:
    with pytest.raises(ConfigError, match="no such column") as refused:
        run_compare(out, by="nothing")
    assert "topic" in refused.value.hint


def test_what_is_shown_survives_hostile_names(document: dict[str, Any]) -> None:
    text = json.dumps(document).replace("explicit_margin", "<script>|x&\\u001b[31m")
    hostile = json.loads(text)
    for drawing in charts(hostile).values():
        root = ElementTree.fromstring(drawing)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
        assert "\x1b" not in drawing
    shown = markdown(hostile, [])
    assert "<script>\\|x&" in shown
    assert all(len(row) == len(table.header) for table in tables(hostile) for row in table.rows)


def test_charts_hold_every_arm(document: dict[str, Any]) -> None:
    drawings = charts(document)
    assert {*drawings} == {"reward-steps.svg", "difference-steps.svg"}
    assert all(f">{name}<" in drawings["reward-steps.svg"] for name in ("random", "explicit_margin"))
    assert ">random<" not in drawings["difference-steps.svg"]
