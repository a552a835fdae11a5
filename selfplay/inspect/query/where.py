"""`--where`: an SQL condition on the columns of one table, as DuckDB parses it.

In a condition, the text of a conversation is the contents of its turns, one per line, and NaN is NULL. The condition is
parsed before it is used: it must be a single expression without subqueries. It cannot leave its place in a query.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from selfplay.core.errors import ConfigError
from selfplay.inspect.query.connection import MOST_SECONDS, connect, quoted

MAX_LENGTH = 2000
ROW = "__row"
"""The row number, counted from 0, in the relation of `relation`."""

Rows = np.ndarray[Any, np.dtype[np.int64]]

# The kinds of expression that a condition may contain: no subquery, window, star or parameter
_ALLOWED = frozenset(
    ("BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
     "OPERATOR", "TYPE")
)  # fmt: skip
# Functions that people expect from elsewhere -> the SQL for them
_INSTEAD = {
    "matches": "regexp_matches(chosen, 'pattern')",
    "like": "chosen LIKE 'a%b'",
    "column": '"my column" > 1 (names with spaces are in double quotes)',
}
EXAMPLE = "Example: alignment_potential > 1 AND NOT kept."


@dataclass(frozen=True, slots=True)
class Where:
    """A condition that was checked against a schema. `sql` is DuckDB's own spelling of it; `columns` are the columns that it
    names, in the order of the schema."""

    sql: str
    columns: tuple[str, ...]

    @staticmethod
    def all_of(conditions: Sequence[Where]) -> Where | None:
        """All conditions together; None where there is none."""
        columns = dict.fromkeys(column for condition in conditions for column in condition.columns)
        sql = " AND ".join(f"({condition.sql})" for condition in conditions)
        return Where(sql, tuple(columns)) if conditions else None

    def rows(self, table: pa.Table | pa.RecordBatchReader, seconds: float = MOST_SECONDS) -> Rows:
        """Numbers of the rows of a table for which the condition is true, ascending. The table has `columns` at least."""
        with connect({"t": table}, EXAMPLE, seconds) as cursor:
            found = cursor.execute(f"SELECT {ROW} FROM ({relation(table.schema)}) WHERE {self.sql}").fetchnumpy()
        return np.asarray(found[ROW], dtype=np.int64)


def relation(schema: pa.Schema) -> str:
    """A SELECT of the table `t` with this schema, in the order of its rows, as conditions and sorting see it."""
    columns = ", ".join(f"{_readable(field)} AS {quoted(field.name)}" for field in schema)
    return f"SELECT {columns}, row_number() OVER () - 1 AS {ROW} FROM t"


def _readable(field: pa.Field) -> str:
    name = quoted(field.name)
    if pa.types.is_floating(field.type):
        return f"nullif({name}, 'nan')"
    if _is_conversation(field.type):
        return f"array_to_string(list_transform({name}, lambda turn: turn.content), chr(10))"
    return name


def _is_conversation(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        and pa.types.is_struct(kind.value_type)
        and {"role", "content"} <= {field.name for field in kind.value_type}
    )


@functools.lru_cache(maxsize=256)
def parse_where(text: str, schema: pa.Schema) -> Where:
    """A condition on a table with this schema. Raises ConfigError with the problem and the SQL to use."""
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"the filter has {len(text)} characters", f"The maximum is {MAX_LENGTH}.")
    with connect({"t": pa.Table.from_batches([], schema)}) as cursor:
        sql, expression = _parsed(cursor, text)
        _check(text, expression)
        named = {name.lower() for node in _nodes(expression) for name in node.get("column_names", ())[:1]}
        columns = tuple(name for name in schema.names if name.lower() in named)
        try:
            kind = cursor.execute(f"DESCRIBE SELECT ({sql}) FROM ({relation(schema)})").fetchone()[1]
            cursor.execute(f"SELECT {ROW} FROM ({relation(schema)}) WHERE {sql}")
        except duckdb.Error as error:
            raise _not_bound(text, str(error), schema) from None
    if kind != "BOOLEAN":
        raise ConfigError(
            f"the filter {text!r} is a value of type {kind}, not a condition",
            f"Compare it with something. {EXAMPLE}",
        )
    if not columns:
        raise ConfigError(f"the filter {text!r} names no column", f"Columns: {', '.join(schema.names)}.")
    return Where(sql, columns)


def _parsed(cursor: Any, text: str) -> tuple[str, dict[str, Any]]:
    """The condition in DuckDB's own spelling, and its syntax tree."""
    # The newline ends a comment in the text. The tree must differ from that of an empty condition by the expression alone.
    trees = [
        json.loads(cursor.execute("SELECT json_serialize_sql(?)", [f"SELECT ({each}\n)"]).fetchone()[0])
        for each in (text, "true")
    ]
    if trees[0]["error"]:
        raise ConfigError(f"the filter {text!r} is invalid SQL: {trees[0]['error_message']}", _syntax_hint(text))
    statements = [tree["statements"] for tree in trees]
    nodes = [{**statement[0]["node"], "select_list": None} for statement in statements]
    if len(statements[0]) != 1 or nodes[0] != nodes[1] or len(statements[0][0]["node"]["select_list"]) != 1:
        raise ConfigError(f"the filter {text!r} is not a single condition", f"Give what follows WHERE. {EXAMPLE}")
    sql = cursor.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(trees[0])]).fetchone()[0]
    return sql.removeprefix("SELECT "), statements[0][0]["node"]["select_list"][0]


def literal(text: str) -> str:
    """Text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "class" in node:
                yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check(text: str, expression: dict[str, Any]) -> None:
    for node in _nodes(expression):
        if node["class"] not in _ALLOWED:
            raise ConfigError(
                f"the filter {text!r} contains a {node['class'].lower().replace('_', ' ')}",
                "A filter is a condition on the columns of one row. `selfplay sql` takes whole queries.",
            )
        if node["class"] == "FUNCTION" and node["function_name"].lower() in _INSTEAD:
            name = node["function_name"].lower()
            raise ConfigError(f"SQL has no function {name!r}", f"Write: {_INSTEAD[name]}.")
        sides = [node.get(side, {}) for side in ("left", "right")] if node["class"] == "COMPARISON" else []
        if "DISTINCT" not in node["type"] and any(
            side.get("literal", {}).get("kind") == "NULL_LITERAL" for side in sides
        ):
            raise ConfigError("a comparison with NULL is never true", "Write IS NULL or IS NOT NULL.")


def _syntax_hint(text: str) -> str:
    if re.search(r"\bis\s+(not\s+)?none\b", text, re.IGNORECASE):
        return "Write IS NULL or IS NOT NULL."
    if re.search(r"\bcolumn\s*\(", text, re.IGNORECASE):
        return 'The name of a column is in double quotes: "my column" > 1.'
    if re.search(r"[<>]=?[^<>]*[<>]", text):
        return f"Write each comparison on its own: 0 < rank AND rank <= 10. {EXAMPLE}"
    return f"{EXAMPLE} Text is in single quotes."


def _not_bound(text: str, message: str, schema: pa.Schema) -> ConfigError:
    """The error of a condition that does not fit the table."""
    message = message.partition("\n\nLINE ")[0].strip()
    unknown = re.search(r'Referenced column "(.+?)" not found', message)
    if unknown is None:
        return ConfigError(f"the filter {text!r} does not fit the table: {message}", EXAMPLE)
    name = unknown[1]
    if f'"{name}"' in text:
        return ConfigError(
            f"there is no column {name!r}", f"Double quotes name a column. Text is in single quotes: '{name}'."
        )
    return unknown_column(name, schema.names)


def unknown_column(name: str, names: list[str]) -> ConfigError:
    """The error for a column that a table does not have."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return ConfigError(f"there is no column {name!r}", f"{hint}Columns: {', '.join(names)}.")
