"""Conditions of `--where`: what they find, which are refused, and with which message."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.inspect.query.connection import connect
from selfplay.inspect.query.where import MAX_LENGTH, Where, parse_where

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
    return [int(row) + 1 for row in parse_where(text, table.schema).rows(table)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("rank > 1", [2, 4]),
        ("not rank > 1", [1]),  # the row without a rank is in neither
        ("1 < rank AND rank <= 4", [2, 4]),
        ("rank between 2 and 4", [2, 4]),
        ("RANK is null", [3]),
        ("value is null", [3, 4]),  # NaN is NULL in a condition
        ("value > -5", [1, 2]),
        ("value is not null and rank == 1.0", [1]),
        ("kept", [1]),
        ("not kept", [2, 4]),
        ("kept is not true", [2, 3, 4]),
        ("kept == false", [2, 4]),
        ("reason in ('zero_margin', 'x')", [3]),
        ("reason not in ('zero_margin')", [2, 4]),
        ("rank in [1, 4.0]", [1, 4]),
        ("kept or value < 0", [1, 2]),
        ("(rank == 1 or rank == 2) and not kept", [2]),
        ("kept) or (rank > 1", [1, 2, 4]),  # one expression, whatever its brackets were meant for
        ("id > 'a-2'", [3, 4]),
        ("tokens / rank == 10", [1]),
        ("tokens - 2 * rank >= 8", [1, 4]),
        ("-value > 0", [2]),
        ("abs(value) >= 1", [1, 2]),
        ("contains(chosen, 'Sorry')", [1]),
        ("contains(chosen, 'sorry')", []),
        ("chosen ilike '%sorry%'", [1]),
        ("contains(prompt, 'brief') and contains(prompt, 'b-')", [3, 4]),
        ("prompt == 'be brief' || chr(10) || 'a-1'", [1]),
        ("starts_with(id, 'a') and ends_with(id, '2')", [2]),
        (r"chosen like '50\% %' escape '\'", [3]),
        ("id like '_-1'", [1, 3]),
        ("regexp_matches(id, '^[ab]-2$')", [2, 4]),
        ("length(chosen) == 3", [4]),
        ("chosen == ''", [2]),
        ('"rank" == 1 -- a comment', [1]),
        ("list_contains(token_ids, 2) and kept", [1]),
        ("rank < 1e400 and rank > -99999999999999999999", [1, 2, 4]),
    ],
)
def test_finds_rows(text: str, rows: list[int]) -> None:
    assert found(text) == rows


def test_reads_the_columns_it_names_and_no_others() -> None:
    assert parse_where("rank > 1 and contains(chosen, 'x') or rank is null", TABLE.schema).columns == ("rank", "chosen")
    both = Where.all_of([parse_where(text, TABLE.schema) for text in ("kept", "rank > 1 and not kept")])
    assert both.columns == ("kept", "rank")
    assert both.rows(TABLE.select(["kept", "rank"])).tolist() == []


def test_slices_of_conversations_are_read_as_they_are() -> None:
    assert found("contains(chosen, 'née')", TABLE.slice(3)) == [1]
    assert found("contains(chosen, 'née')", TABLE.slice(0, 3)) == []
    assert found("contains(chosen, 'née')", TABLE.schema.empty_table()) == []


@pytest.mark.parametrize(
    ("text", "said", "advice"),
    [
        ("rnak > 1", "there is no column 'rnak'", "Did you mean rank?"),
        ('reason == "zero_margin"', "there is no column 'zero_margin'", "single quotes: 'zero_margin'"),
        ("rank", "is a value of type BIGINT, not a condition", "Compare it"),
        ("rank > 1, kept", "not a condition", "Compare it"),
        ("1 > 0", "names no column", "Columns: id"),
        ("1 < rank <= 4", "Chained comparisons", "0 < rank AND rank <= 10"),
        ("value is not None", "invalid SQL", "IS NOT NULL"),
        ("rank == null", "a comparison with NULL is never true", "IS NULL"),
        ("like(id, 'a%')", "no function 'like'", "chosen LIKE 'a%b'"),
        ("matches(id, 'a')", "no function 'matches'", "regexp_matches(chosen, 'pattern')"),
        ("column('rank') > 1", "invalid SQL", '"my column" > 1'),
        ("rank >", "invalid SQL", "Example"),
        ("", "not a condition", "Example"),
        ("rank > 'a'", "Could not convert", "Example"),
        ("token_ids == 1", "INTEGER -> INTEGER[]", "Example"),
        ("contain(chosen, 'x')", "contain does not exist", "Example"),
        ("sum(rank) > 1", "does not fit the table", "Example"),
        ("rank > 1 or " * 400 + "kept", "characters", str(MAX_LENGTH)),
        ("kept \x00", "invalid SQL", "Example"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(text: str, said: str, advice: str) -> None:
    with pytest.raises(ConfigError) as error:
        found(text)
    assert said in error.value.message
    assert "LINE 1" not in error.value.message
    assert advice in error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "kept; select 1", "kept); select (true", "kept); copy t to '/tmp/never' --", "kept) union select (true",
        "kept) from t where (true", "true) order by (1", "true) limit (1", "true) group by (1", "kept) as x, (true",
        "kept /*", "kept) from read_csv('/etc/passwd') where (true",
        "(select kept)", "exists(select * from read_csv('/etc/passwd'))", "rank in (select 1)", "rank = any(select 1)",
        "id in (from read_text('/etc/passwd') select content)", "id = (select content from '/etc/passwd')",
        "id in (from query('select 1'))", "id = read_text('/etc/passwd')", "id = getenv('HOME')",
        "row_number() over () > 1", "sum(rank) > 1", "? = id", "$a = id", "* = 1", "columns(*) = 1", "#1 = 1",
        "install httpfs", "kept and (load httpfs)", "attach '/tmp/never'", "'/etc/passwd'", "__import__('os').system('true')",
        "[x for x in (select 1)] = [kept]", "list_transform([kept], lambda x: (select x)) = [true]",
        "case when kept then (select true) end", "kept is not distinct from (select true)",
    ],
)  # fmt: skip
def test_a_condition_cannot_leave_its_place(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_where(text, TABLE.schema).rows(TABLE)


def test_a_table_without_the_rows_of_other_queries() -> None:
    with connect({"t": TABLE}) as one, connect({"u": TABLE}) as other:
        assert one.execute("select count(*) from t").fetchone() == (4,)
        with pytest.raises(duckdb.CatalogException):
            other.execute("select count(*) from t")


def test_a_query_that_takes_too_long_is_interrupted() -> None:
    with pytest.raises(SelfplayError, match="interrupted after 0 s"), connect({}, seconds=0.2) as cursor:
        cursor.execute("select sum(a.range * b.range) from range(10000000) a, range(100000) b")


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
    assert parse_where(text, table.schema).rows(table).tolist() == wanted
