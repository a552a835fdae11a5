"""JSON that is read from anywhere."""

from __future__ import annotations

import pytest

from selfplay.core.json_text import MAX_DEPTH, parse_json


@pytest.mark.parametrize("opened", ["[", '{"a":'])
def test_depth_is_bounded(opened: str) -> None:
    closed = "]" if opened == "[" else "}"

    def nested(depth: int) -> str:
        return opened * depth + "1" + closed * depth

    parse_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 500, 200_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(nested(depth))
    assert parse_json(f"[{', '.join([nested(2)] * 200)}]") is not None
    assert parse_json('"' + "[" * 500 + '"') == "[" * 500


def test_what_is_invalid_is_a_value_error() -> None:
    for text in ("", "{", b"\xff", "[1,]", "9" * 5000, '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'):
        with pytest.raises(ValueError):
            parse_json(text)
