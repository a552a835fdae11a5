"""The benchmarks' own parts run: on small work, without a look at the clock."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import Figure, alternate, median_of
from benchmarks.ranking_parts import bare, make, ours


def test_ours_keeps_what_the_bare_rule_keeps(tmp_path: Path) -> None:
    table = str(tmp_path / "table.parquet")
    make(table, "1000")
    assert ours(table, str(tmp_path / "result"))["num_kept"] == 400
    assert bare(table)


def test_runs_alternate() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate({"ours": lambda: run("ours"), "bare": lambda: run("bare")}, 3)
    assert order == ["ours", "bare", "bare", "ours", "ours", "bare"]
    assert found == {"ours": [1.0, 4.0, 5.0], "bare": [2.0, 3.0, 6.0]}


def test_a_figure_says_whether_its_bar_holds() -> None:
    timed = median_of("a page", [3.0, 1.0, 2.0], "s", "10 rows", bar=2.0).document()
    assert (timed["value"], timed["spread"], timed["num_runs"], timed["holds"]) == (2.0, [1.0, 3.0], 3, True)
    assert Figure("tokens per second over bare", 0.9, "ratio", "", 0.95, at_least=True).holds is False
    assert Figure("a size", 1.0, "GB", "").holds is None
