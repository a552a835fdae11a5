"""The filter language: what it finds, against plain Python over the same rows; what it refuses, and how it says so."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.core.errors import ConfigError
from selfplay.core.records import Pair, Response, schema
from selfplay.inspect.query.where import MAX_LENGTH, columns_for_where, parse_where

TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
ROWS: list[dict[str, Any]] = [
    {"id": "a-1", "rank": 1, "value": 2.5, "kept": True, "reason": None, "tokens": 10, "chosen": "Sorry, no."},
    {"id": "a-2", "rank": 2, "value": -1.0, "kept": False, "reason": "not_selected", "tokens": 0, "chosen": ""},
    {"id": "b-1", "rank": None, "value": None, "kept": None, "reason": "zero_margin", "tokens": 7, "chosen": "50% off"},
    {"id": "b-2", "rank": 4, "value": math.nan, "kept": False, "reason": "not_selected", "tokens": 20, "chosen": "née"},
]
TABLE = pa.table(
    {
        **{
            name: pa.array([row[name] for row in ROWS], kind)
            for name, kind in (
                ("id", pa.string()), ("rank", pa.int64()), ("value", pa.float64()), ("kept", pa.bool_()),
                ("reason", pa.string()), ("tokens", pa.int64()),
            )
        },
        "chosen": pa.array([[{"role": "assistant", "content": row["chosen"]}] for row in ROWS], TURNS),
        "prompt": pa.array(
            [[{"role": "system", "content": "be brief"}, {"role": "user", "content": row["id"]}] for row in ROWS], TURNS
        ),
        "token_ids": pa.array([[1, 2]] * len(ROWS), pa.list_(pa.int32())),
    }
)  # fmt: skip


def found(text: str, table: pa.Table = TABLE) -> list[int]:
    return [row + 1 for row in parse_where(text, table.schema).rows(table).to_pylist()]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("rank > 1", [2, 4]),
        ("not rank > 1", [1]),  # the row without a rank is in neither
        ("1 < rank <= 4", [2, 4]),
        ("rank is null", [3]),
        ("value is null", [3, 4]),  # NaN is no value either
        ("value is not None and rank == 1.0", [1]),
        ("kept", [1]),
        ("not kept", [2, 4]),
        ("kept is not true", [2, 3, 4]),
        ("kept == false", [2, 4]),
        ("reason in ('zero_margin', 'x')", [3]),
        ("reason not in ('zero_margin',)", [2, 4]),
        ("rank in [1, 4.0]", [1, 4]),
        ("rank in (1.5,)", []),
        ("rank in ()", []),
        ("kept or value < 0", [1, 2]),
        ("(rank == 1 or rank == 2) and not kept", [2]),
        ("id > 'a-2'", [3, 4]),
        ("tokens / rank == 10", [1]),
        ("tokens / 0 > 1", [1, 3, 4]),
        ("9223372036854775807 + tokens < 0", [1, 3, 4]),  # whole numbers wrap around
        ("tokens - 2 * rank >= 8", [1, 4]),
        ("-value > 0", [2]),
        ("abs(value) >= 1", [1, 2]),
        ("contains(chosen, 'sorry')", [1]),
        ("contains(prompt, 'BRIEF') and contains(prompt, 'b-')", [3, 4]),
        ("prompt == 'be brief\\na-1'", [1]),
        ("starts_with(id, 'a') and ends_with(id, '2')", [2]),
        ("like(chosen, '50\\\\% %')", [3]),
        ("like(id, '_-1')", [1, 3]),
        ("matches(id, '^[ab]-2$')", [2, 4]),
        ("length(chosen) == 3", [4]),
        ("chosen == ''", [2]),
        ("column('rank') == 1", [1]),
        ("rank < 1e400 and rank > -99999999999999999999", [1, 2, 4]),
    ],
)
def test_finds(text: str, rows: list[int]) -> None:
    assert found(text) == rows


def test_reads_the_columns_it_names_and_no_others() -> None:
    assert parse_where("rank > 1 and contains(chosen, 'x') or rank is null", TABLE.schema).columns == ("rank", "chosen")
    both = parse_where("kept", TABLE.schema) & parse_where("rank > 1 and not kept", TABLE.schema)
    assert both.columns == ("kept", "rank")
    assert both.rows(TABLE.select(["kept", "rank"])).to_pylist() == []


def test_slices_of_conversations_are_read_as_they_are() -> None:
    assert found("contains(chosen, 'née')", TABLE.slice(3)) == [1]
    assert found("contains(chosen, 'née')", TABLE.slice(0, 3)) == []
    assert found("contains(chosen, 'née')", TABLE.schema.empty_table()) == []


@pytest.mark.parametrize(
    ("text", "said", "advice"),
    [
        ("rnak > 1", "there is no column 'rnak'", "Did you mean rank?"),
        ("token_ids == 1", "token_ids holds lists", "Columns: id, rank"),
        ("rank", "is a number, not a test", "Compare it"),
        ("1 > 0", "names no column", "Columns: id"),
        ("rank = 1", "cannot be read at '= 1'", "Equal is =="),
        ("rank > 1 AND kept", "cannot be read at 'AND kept'", "lower case"),
        ("rank >", "cannot be read at its end", ""),
        ("", "cannot be read", ""),
        ("rank > 'a'", "they cannot be compared", "quotes"),
        ("kept > true", "no order", "=="),
        ("rank == null", "nothing is equal to null", "is null"),
        ("rank is 3", "`is` goes with null", "=="),
        ("rank and kept", "'and' takes tests", ""),
        ("rank in 3", "a list in brackets", "contains("),
        ("rank in (1, 'a')", "does not belong into the list", ""),
        ("rank in (tokens,)", "values only", ""),
        ("kept in (true,)", "`in` takes numbers or text", ""),
        ("id + 'x' == 'y'", "arithmetic takes numbers", ""),
        ("rank ** 2 > 1", "not part of the filter language", "+ - * /"),
        ("rank & kept", "not part of the filter language", "words"),
        ("~kept", "takes numbers", ""),
        ("~rank > 1", "not part of the filter language", "not"),
        ("rank > 1j", "neither a number nor text", ""),
        ("contains(rank, 'x')", "contains takes text", ""),
        ("contains(chosen)", "contains takes 2 values", "contains(chosen, 'word')"),
        ("contains(chosen, id)", "is text in quotes", ""),
        ("matches(chosen, '(')", "no regular expression", ""),
        ("contain(chosen, 'x')", "there is no function 'contain'", "Did you mean contains?"),
        ("column(rank) > 1", "the column's name in quotes", ""),
        ("rank > " + "9" * 400, "too large", ""),
        ("rank > 1 or " * 400 + "kept", "characters", str(MAX_LENGTH)),
        ("not " * 40 + "kept", "nested too deeply", ""),
        ("(" * 400 + "kept" + ")" * 400, "cannot be read", ""),
        ("kept\x00", "cannot be read", ""),
        # nothing of Python but the nodes that are known
        ("__import__('os').system('true')", "there is no function", ""),
        ("rank.__class__ == 1", "not part of the filter language", ""),
        ("(lambda: kept)()", "there is no function", ""),
        ("[r for r in rank] == 1", "not part of the filter language", ""),
        ("f'{rank}' == 'a'", "not part of the filter language", ""),
        ("(x := 1) == 1", "not part of the filter language", ""),
        ("kept if kept else kept", "not part of the filter language", ""),
        ("contains(*chosen, 'x')", "not part of the filter language", ""),
        ("contains(chosen, text='x')", "contains takes 2 values", ""),
        ("rank[0] == 1", "not part of the filter language", ""),
    ],
)  # fmt: skip
def test_says_what_is_wrong(text: str, said: str, advice: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_where(text, TABLE.schema)
    assert said in error.value.message
    assert advice in error.value.hint


def test_columns_of_the_tables_of_a_run() -> None:
    pairs = columns_for_where(schema(Pair))
    assert list(pairs) == schema(Pair).names
    assert (pairs["prompt"], pairs["rank"], pairs["kept"]) == ("text", "number", "flag")
    assert set(schema(Response).names) - set(columns_for_where(schema(Response))) == {"token_ids"}


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
NUMBERS = st.one_of(st.none(), st.integers(-3, 3))


@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS, st.one_of(st.none(), st.booleans())), max_size=12),
    one=st.sampled_from(list(OPERATORS)),
    two=st.sampled_from(list(OPERATORS)),
    word=st.sampled_from(["and", "or"]),
    constant=st.integers(-3, 3),
)
@settings(max_examples=60, deadline=None)
def test_is_the_three_valued_logic_of_sql(
    rows: list[tuple[int | None, int | None, bool | None]], one: str, two: str, word: str, constant: int
) -> None:
    table = pa.table(
        {
            name: pa.array([row[place] for row in rows], kind)
            for place, (name, kind) in enumerate((("a", pa.int64()), ("b", pa.int64()), ("c", pa.bool_())))
        }
    )

    def compared(name: str, left: int | None, right: int | None) -> bool | None:
        return None if left is None or right is None else OPERATORS[name](left, right)

    def expected(a: int | None, b: int | None, c: bool | None) -> bool | None:
        left, middle = compared(one, a, constant), compared(two, a, b)
        right = None if middle is None else not middle
        values = [left, right, c]
        decisive = word == "or"
        if decisive in values:
            return decisive
        return None if None in values else not decisive

    text = f"a {one} {constant} {word} not a {two} b {word} c"
    wanted = [number for number, row in enumerate(rows) if expected(*row) is True]
    assert parse_where(text, table.schema).rows(table).to_pylist() == wanted
