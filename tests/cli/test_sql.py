"""`selfplay sql`: what its CSV holds."""

from __future__ import annotations

import csv
import io

import pytest

from selfplay.cli.sql import _write_csv


def test_no_text_of_the_csv_is_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", "a=1", "", "\x1b[2J"]
    names = ("=cmd", "number", "turns")
    _write_csv({"columns": [{"name": name} for name in names], "rows": [[text, -1.5, ["=1"]] for text in texts]})
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[0] == ["'=cmd", "number", "turns"]
    assert [row[0] for row in rows[1:]] == ["'" + text for text in texts[:6]] + texts[6:]
    assert {(row[1], row[2]) for row in rows[1:]} == {("-1.5", '["=1"]')}
