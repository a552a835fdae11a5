"""The benchmark's own parts run: on a small table, without a look at the clock."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ranking_parts import bare, make, ours


def test_ours_keeps_what_the_bare_rule_keeps(tmp_path: Path) -> None:
    table = str(tmp_path / "table.parquet")
    make(table, "1000")
    assert ours(table, str(tmp_path / "result"))["num_kept"] == 400
    assert bare(table)
