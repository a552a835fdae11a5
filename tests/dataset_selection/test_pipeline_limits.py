"""Quotas of groups, the cap per prompt, the lowest part and zero margins, from the command's settings to the result."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfplay.core.errors import ConfigError
from selfplay.inspect.documents.selection import selection_diagnostics
from selfplay.store.run import Store
from tests.helpers.tables import Select, dropped, kept, number_table, text_rows, write_rows


def topics(root: Path) -> Counter[str]:
    return Counter(row["group"] for row in kept(root))


def margin(row: dict[str, Any]) -> float:
    return float(row["reward_chosen"] - row["reward_rejected"])


def test_quotas_of_groups(tmp_path: Path, run: Select) -> None:
    rows = text_rows(40)
    for row in rows[::4]:
        row["topic"] = "law"
    source, out = write_rows(tmp_path / "a.jsonl", rows), tmp_path / "out"
    by_topic = {"metric": "explicit_margin", "columns": {"group": "topic"}}
    outcome = run(source, keep=1.0, keep_per_group=4, **by_topic)
    assert topics(out) == {"law": 4, "maths": 4, "code": 4}
    reasons = outcome.summary["selection"]["drop_reasons"]
    assert reasons == {"over_group_quota": 28}
    for name in ("law", "maths", "code"):
        best = sorted((row for row in rows if row["topic"] == name), key=margin, reverse=True)[:4]
        assert {margin(row) for row in best} == {row["explicit_margin"] for row in kept(out) if row["group"] == name}
    ranks = [row["rank"] for row in kept(out)]
    assert ranks == sorted(ranks) and len(set(ranks)) == 12
    # the quotas are of what was asked, whatever the keep of the whole
    run(source, keep=6, keep_per_group={"law": 2, "maths": 0.5, "code": 0}, out=str(tmp_path / "named"), **by_topic)
    assert topics(tmp_path / "named").total() == 6 and topics(tmp_path / "named")["code"] == 0
    assert topics(tmp_path / "named")["law"] <= 2
    outcome = run(source, keep=9, min_per_group=3, out=str(tmp_path / "least"), **by_topic)
    assert topics(tmp_path / "least") == {"law": 3, "maths": 3, "code": 3}
    assert outcome.summary["selection"]["min_per_group"] == 3
    outcome = run(source, keep=6, min_per_group=3, out=str(tmp_path / "short"), **by_topic)
    assert topics(tmp_path / "short") == {"law": 2, "maths": 2, "code": 2}
    assert "3 of 3 groups have fewer than min_per_group = 3" in outcome.summary["notes"][0]
    with pytest.raises(ConfigError, match="has no quota for 'code', 'maths'"):
        run(source, keep_per_group={"law": 2}, keep=1.0, out=str(tmp_path / "typo"), **by_topic)
    # the record shows the same groups and no cut, which is another one in each group
    found = selection_diagnostics(Store.open(out / ".run"), 1)
    assert found.cut is None
    assert {share.group: share.num_kept for share in found.groups["topic"].shares} == {"law": 4, "maths": 4, "code": 4}


def test_the_lowest_part(tmp_path: Path, run: Select) -> None:
    rows = text_rows(30)
    source = write_rows(tmp_path / "a.jsonl", rows)
    outcome = run(source, metric="explicit_margin", keep=5, keep_lowest=True)
    lowest = sorted(map(margin, rows))[:5]
    assert [row["explicit_margin"] for row in kept(tmp_path / "out")] == lowest
    assert outcome.summary["selection"]["cut_value"] == lowest[-1]
    assert "keep_lowest" in (tmp_path / "out" / "README.md").read_text()


def test_the_cap_of_a_prompt_keeps_what_the_metric_puts_first(tmp_path: Path, run: Select) -> None:
    rows = text_rows(30)
    for row, other in zip(rows[1::3], rows[::3], strict=True):
        row["prompt"] = other["prompt"]
    source = write_rows(tmp_path / "a.jsonl", rows)
    outcome = run(source, metric="explicit_margin", keep=1.0, max_per_prompt=1)
    assert outcome.summary["selection"]["drop_reasons"] == {"over_max_per_prompt": 10}
    better = {max(margin(a), margin(b)) for a, b in zip(rows[::3], rows[1::3], strict=True)}
    assert better | {margin(row) for row in rows[2::3]} == {row["explicit_margin"] for row in kept(tmp_path / "out")}
    assert all(row["rank"] is None for row in dropped(tmp_path / "out"))
    with pytest.raises(ConfigError, match="max_per_prompt needs the prompts"):
        run(number_table(tmp_path / "n.parquet"), max_per_prompt=1, out=str(tmp_path / "numbers"))


def test_zero_margins_are_ranked_on_request(tmp_path: Path, run: Select) -> None:
    rows = text_rows(20)
    for row in rows[:6]:
        row["reward_chosen"] = row["reward_rejected"]
    source = write_rows(tmp_path / "a.jsonl", rows)
    assert run(source).summary["selection"]["drop_reasons"]["zero_margin"] == 6
    outcome = run(source, keep_zero_margins=True, out=str(tmp_path / "all"))
    assert outcome.summary["selection"]["num_ranked"] == 20
    assert all(one["num_kept"] for one in outcome.summary["diagnostics"]["overlaps"])
    responses = [{"prompt": "a", "responses": ["x", "y"], "rewards": [1.0, 1.0]}] * 2
    with pytest.raises(ConfigError, match="keep_zero_margins is for existing pairs"):
        run(
            write_rows(tmp_path / "r.jsonl", responses), keep_zero_margins=True, metric="explicit_margin",
            out=str(tmp_path / "r"),
        )  # fmt: skip


def test_a_warning_where_the_selection_makes_the_chosen_longer(tmp_path: Path, run: Select) -> None:
    rows = text_rows(200)
    for number, row in enumerate(rows):
        row |= {"reward_chosen": float(number + 1), "reward_rejected": 0.0}
        row |= {"num_tokens_chosen": 10 + number, "num_tokens_rejected": 120}
    warnings = run(write_rows(tmp_path / "a.jsonl", rows), metric="explicit_margin").summary["diagnostics"]["warnings"]
    assert {"length_gap_wider", "chosen_longer"} <= {one["name"] for one in warnings}
    json.dumps(warnings)
