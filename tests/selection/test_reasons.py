"""DropReasons by row: the first one stays, nothing is changed in place, counts are by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection.reasons import PAIR_REASONS, RESPONSE_REASONS, DropReasons, is_kept, no_reasons, with_reason

rows = st.lists(st.sampled_from([None, None, "empty", "truncated", "reward_error: boom"]), max_size=20)


@given(rows)
def test_a_list_and_back(values) -> None:
    reasons = DropReasons.of(values)
    assert reasons.tolist() == list(reasons) == [reasons[i] for i in range(len(reasons))] == values
    assert is_kept(reasons).tolist() == [value is None for value in values]
    assert reasons.is_reason("empty").tolist() == [value == "empty" for value in values]
    assert not reasons.is_reason("never given").any()
    expected = {name: values.count(name) for name in sorted({value for value in values if value})}
    assert reasons.counts() == expected and list(reasons.counts()) == list(expected)
    assert reasons.at(np.arange(len(values)) % 2 == 0).tolist() == values[::2]
    assert reasons.at(np.arange(len(values))[::-1]).tolist() == values[::-1]


@given(rows, st.data())
def test_the_first_reason_stays_and_the_given_ones_are_left_as_they_were(values, data) -> None:
    where = np.array([data.draw(st.booleans()) for _ in values], dtype=bool)
    before = DropReasons.of(values)
    after = with_reason(before, where, "too_late")
    assert after.tolist() == [v or ("too_late" if w else None) for v, w in zip(values, where, strict=True)]
    assert before.tolist() == values


def test_none_at_all() -> None:
    assert no_reasons(3).tolist() == [None] * 3 and no_reasons(0).counts() == {}
    with pytest.raises(IndexError):
        no_reasons(3)[3]


def test_more_reasons_than_small_integers_can_name() -> None:
    values = [f"reward_error: {i}" for i in range(40_000)]
    reasons = with_reason(DropReasons.of([*values, None]), np.ones(40_001, dtype=bool), "last")
    assert reasons.tolist() == [*values, "last"]


def test_every_reason_is_explained() -> None:
    for name, sentence in (RESPONSE_REASONS | PAIR_REASONS).items():
        assert name == name.lower() and " " not in name and len(sentence) > 10
