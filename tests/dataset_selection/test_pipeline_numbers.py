"""Columns in any numeric type rank as in float64, and what a metric does to its arrays stays with the metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.dataset_selection.reading.numbers import TOKEN_COUNTS
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing import pair_filters
from tests.helpers.tables import Select, dropped, kept

rng = np.random.default_rng(0)
WHOLE = {name: rng.integers(0, 120, 60) for name in ("reward_chosen", "reward_rejected", "reward_fresh", "mine")}
KINDS = [pa.uint8(), pa.int8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal128(5, 1)]


def table(path: Path, kind: pa.DataType) -> Path:
    columns: dict[str, Any] = {"pair_id": [f"p{row:03d}" for row in range(60)]}
    for name, values in WHOLE.items():
        column = pa.array(values.astype(np.float16) if kind == pa.float16() else values)
        columns[name] = column.cast(pa.decimal128(21, 1)) if pa.types.is_decimal(kind) else column.cast(kind)
    pq.write_table(pa.table(columns), path)
    return path


def outcome(root: Path) -> list[tuple[str, str | None, float | None]]:
    return [(row["pair_id"], row["drop_reason"], row["metric_value"]) for row in (*kept(root), *dropped(root))]


@pytest.mark.parametrize("metric", ["fdpo", "explicit_margin", "high_mean_low_variance", "minimum_gap", "own"])
def test_narrow_columns_rank_as_float64_does(tmp_path: Path, run: Select, metric: str) -> None:
    (tmp_path / "own.py").write_text(
        "def own(reward_chosen, mine):\n    assert str(mine.dtype) == 'float64'\n    return reward_chosen - mine\n"
    )
    metric = f"{tmp_path}/own.py:own" if metric == "own" else metric
    run(table(tmp_path / "wide.parquet", pa.float64()), metric=metric, out=str(tmp_path / "wide"))
    expected = outcome(tmp_path / "wide")
    assert len(expected) == 60
    for kind in KINDS:
        root = tmp_path / str(kind)
        run(table(tmp_path / "narrow.parquet", kind), metric=metric, out=str(root))
        assert outcome(root) == expected, kind


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int8, np.float16])
def test_an_explicit_margin_that_is_given_may_be_narrow(tmp_path: Path, run: Select, kind: type) -> None:
    margin = rng.integers(1, 120, 30).astype(kind)
    tokens = rng.integers(1, 120, (4, 30))
    columns = {
        "explicit_margin": margin, "policy_logp_chosen": -tokens[0].astype(np.int8),
        "policy_logp_rejected": -tokens[1].astype(np.int8), "num_tokens_chosen": tokens[2].astype(np.uint8),
        "num_tokens_rejected": tokens[3].astype(np.uint8),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "narrow.parquet")
    wide = {name: column.astype(np.float64) for name, column in columns.items()}
    pq.write_table(pa.table(wide), tmp_path / "wide.parquet")
    named = {"mine": "explicit_margin"}
    (tmp_path / "own.py").write_text(
        "def own(mine, implicit_margin, num_tokens_chosen, num_tokens_rejected):\n"
        "    return mine * abs(implicit_margin) + num_tokens_chosen - num_tokens_rejected\n"
    )
    flags = {"metric": f"{tmp_path}/own.py:own", "columns": named}
    first = run(tmp_path / "narrow.parquet", out=str(tmp_path / "a"), **flags)
    second = run(tmp_path / "wide.parquet", out=str(tmp_path / "b"), **flags)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert first.summary["diagnostics"]["lengths"] == second.summary["diagnostics"]["lengths"]
    assert first.summary["selection"] == second.summary["selection"]


def test_filters_take_narrow_columns_as_they_are_meant() -> None:
    chosen, rejected = np.array([1, 9], np.uint8), np.array([9, 1], np.uint8)
    rules = PairRules(min_gap=2, max_length_gap=3)
    found = pair_filters(
        rules, 2, reward_chosen_P=chosen, reward_rejected_P=rejected, num_tokens_chosen_P=np.array([1, 5], np.uint8),
        num_tokens_rejected_P=np.array([9, 6], np.uint8),
    )  # fmt: skip
    assert found.tolist() == ["gap_too_small", None]


def test_a_metric_that_works_in_place_changes_nothing_that_is_written(tmp_path: Path, run: Select) -> None:
    (tmp_path / "own.py").write_text(
        "def own(reward_chosen, explicit_margin, embedding):\n"
        "    reward_chosen *= -1\n    explicit_margin[:] = 7\n    embedding[:] = 0\n    return reward_chosen\n"
    )
    source = tmp_path / "a.jsonl"
    source.write_text(
        "".join(f'{{"reward_chosen": {n}.5, "reward_rejected": 0.25, "embedding": [{n}, 1]}}\n' for n in range(1, 9))
    )
    run(source, metric=f"{tmp_path}/own.py:own")
    rows = kept(tmp_path / "out") + dropped(tmp_path / "out")
    assert sorted(row["reward_chosen"] for row in rows) == [n + 0.5 for n in range(1, 9)]
    assert all(row["explicit_margin"] == row["reward_chosen"] - 0.25 for row in rows)
    assert all(row["metric_value"] == -row["reward_chosen"] for row in rows)


def test_only_token_counts_become_integers(tmp_path: Path, run: Select) -> None:
    (tmp_path / "own.py").write_text("def own(num_errors_rate):\n    return -num_errors_rate\n")
    source = tmp_path / "a.jsonl"
    source.write_text(
        "".join(
            f'{{"reward_chosen": {n}, "reward_rejected": 0, "num_errors_rate": 0.{n}, "num_tokens_chosen": 5.0,'
            f' "num_tokens_rejected": 4}}\n'
            for n in range(1, 6)
        )
    )
    run(source, metric=f"{tmp_path}/own.py:own", keep=2)
    assert [row["num_errors_rate"] for row in kept(tmp_path / "out")] == [0.1, 0.2]
    schema = pq.read_schema(tmp_path / "out" / "kept" / "part-00000.parquet")
    assert schema.field("num_tokens_chosen").type == schema.field("num_tokens_rejected").type == pa.int64()
    assert "num_errors_rate" not in TOKEN_COUNTS
