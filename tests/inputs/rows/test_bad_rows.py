"""Rows that cannot be used: what is kept of them, and what is said."""

from __future__ import annotations

from selfplay.inputs.rows.bad_rows import BadRow, BadRowLog


def test_the_first_rows_of_each_reason_are_said_the_most_frequent_first() -> None:
    log = BadRowLog()
    for row in range(20):
        log.add(BadRow("a.jsonl", row, "empty_text" if row % 5 else "null_value", f"detail {row}"))
    log.add(BadRow("a.jsonl", 20, "tie", "detail 20"))
    bad = log.done()
    assert [row.row for row in bad.first(2)] == [1, 2, 0, 5, 20]
    lines = bad.lines(100)
    assert lines[0] == "bad row: a.jsonl row 1: detail 1" and len([line for line in lines if "bad row:" in line]) == 7
    assert "bad rows: 16 are empty_text" in lines and not any("warning" in line for line in lines)


def test_a_warning_where_most_rows_are_bad() -> None:
    log = BadRowLog()
    log.add_many("tie", 6, [])
    assert "warning: most rows are bad (6 of 10)" in log.done().lines(10)[-1]
    assert not any("warning" in line for line in log.done().lines(12))
