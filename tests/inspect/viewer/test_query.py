"""The address of a page of pairs says everything, and nothing that is not there gets by."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from selfplay.core.errors import ConfigError
from selfplay.inspect.viewer.query import Query, Range

RANGED, SORTABLE = ("explicit_margin",), ("explicit_margin", "rank", "pair_id")


def parse(text: str) -> Query:
    return Query.parse(dict(parse_qsl(text, keep_blank_values=True)), RANGED, SORTABLE)


FULL = Query(
    kept="no", reason="it's <odd>", text="o'clock \\ \"x\"", scope="chosen", where="rank < 9 or rank is null",
    ranges=(Range("explicit_margin", -0.5, 1e-7),), sort="rank", order="desc", page=3, size=25, diff=False,
)  # fmt: skip


def test_an_address_says_all_of_it() -> None:
    assert parse(FULL.encoded().removeprefix("?")) == FULL
    assert Query().encoded() == ""
    assert parse("kept=&q=&min.explicit_margin=&sort=&page=&unknown=1") == Query()
    assert FULL.encoded(paged=False).count("page") == 0


def test_a_change_goes_to_the_first_page() -> None:
    assert FULL.but(kept="").page == 1
    assert FULL.but(page=7).page == 7
    assert FULL.without_range("explicit_margin").ranges == ()


def test_the_filter_is_one_test_of_the_terminal() -> None:
    assert (
        Query(kept="yes", ranges=(Range("explicit_margin", -0.5, None),)).filter_text()
        == "kept AND explicit_margin >= -0.5"
    )
    assert FULL.filter_text().endswith("AND (rank < 9 or rank is null)")
    assert (
        Query(text="It's", scope="chosen", kept="yes").filter_text() == "kept AND regexp_matches(chosen, 'It''s', 'i')"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kept=maybe", "yes, no"),
        ("sort=explicit_margn", "Did you mean explicit_margin"),
        ("sort=__class__", "Available"),
        ("order=up", "asc, desc"),
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=²", "page"),
        (f"page={'9' * 5000}", "page"),
        ("size=1000000", "10, 25, 50"),
        ("min.explicit_margin=nan", "not a number"),
        ("max.explicit_margin=1e999", "not a number"),
        ("min.explicit_margin=x", "not a number"),
        ("in=everything", "prompt, chosen, rejected"),
        ("diff=maybe", "on, off"),
    ],
)
def test_what_is_not_there_is_said(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_which_end_comes_first() -> None:
    assert not Query().descending
    assert Query(sort="explicit_margin").descending
    assert not Query(sort="rank").descending
    assert Query(order="desc").descending
