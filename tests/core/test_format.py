"""Numbers, durations, sizes and Markdown tables."""

from __future__ import annotations

from selfplay.core.format import PAGE, age, duration, human_bytes, markdown_table, number, percent, signed


def test_numbers_are_short() -> None:
    shown = [number(value) for value in (None, True, 3, 0.0, 0.12345, 1e-7, -9e-17, 2e9, "x\x1b")]
    assert shown == ["-", "yes", "3", "0.000", "0.123", "1.00e-07", "0.000", "2.00e+09", "x\\x1b"]
    assert [duration(value) for value in (None, 4.24, 190.0, 7500.0)] == ["-", "4.2 s", "3 min 10 s", "2 h 05 min"]


def test_signs_and_percentages() -> None:
    assert [signed(value) for value in (None, 2, 0.25, -0.25)] == ["-", "+2", "+0.250", "-0.250"]
    assert signed(1.25, 1) == "+1.2"
    assert [percent(value) for value in (None, 0.5, 1.0)] == ["-", "50%", "100%"]


def test_pages_have_a_true_minus_sign_and_grouped_digits() -> None:
    assert [PAGE.number(value) for value in (None, -1234567, -0.5)] == [
        "\u2013",
        "\u22121\u202f234\u202f567",
        "\u22120.500",
    ]
    assert PAGE.signed(-0.5, 1) == "\u22120.5" and PAGE.percent(None) == "\u2013"


def test_ages_and_sizes_are_in_the_largest_unit_that_fits() -> None:
    assert [age(seconds) for seconds in (0, 119, 120, 7200, 200_000)] == ["0 s", "119 s", "2 min", "2 h", "2 days"]
    assert [human_bytes(size) for size in (12, 1500, 13_400_000, 2e12)] == ["12 B", "2 KB", "13.4 MB", "2.0 TB"]


def test_a_markdown_table() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]], right=True) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
