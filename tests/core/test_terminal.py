"""Text that reaches a terminal is harmless, and columns line up."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from selfplay.core.errors import OutputError
from selfplay.core.terminal import clip, table, width_of, write, writing_stdout


def test_widths_and_clipping() -> None:
    assert width_of("日本e\u0301") == 5
    assert clip("abcdef", 4) == "abc…"
    assert clip("日本語", 5) == "日本…"
    assert clip("abc", 3) == "abc"


def test_wide_table_goes_on_below() -> None:
    drawn = table(["id", "first/value", "second"], [["1", "10", "20"], ["2", "日", "x"]], width=12)
    assert drawn.splitlines() == [
        "    first",
        "id  value",
        "1      10",
        "2      日",
        "",
        "",
        "id  second",
        "1       20",
        "2        x",
    ]
    assert table([], [["a", "1"], ["bb", "22"]], width=80) == "a    1\nbb  22"


def test_an_output_that_takes_no_more_is_said_and_a_reader_that_left_is_not() -> None:
    for code, expected in ((errno.ENOSPC, OutputError), (errno.EPIPE, BrokenPipeError), (errno.EIO, BrokenPipeError)):
        with pytest.raises(expected), writing_stdout():
            raise OSError(code, os.strerror(code))


def test_data_for_a_closed_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    with pytest.raises(OutputError, match="it is closed"):
        write("a row")
