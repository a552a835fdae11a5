"""The filter language of `--where`: `alignment_potential > 1 and not kept`.

Names of columns, numbers, 'text', `null true false`; comparisons (`0 < rank <= 10` too), `in (...)`, `is null`, and, or, not,
`+ - * /`, `abs(x)`, `length(text)`, and on text `contains(text, 'a')` (case aside), `starts_with`, `ends_with`,
`like(text, 'a%b_')`, `matches(text, 'regular expression')`. The text of a conversation is that of its turns, a line each.
A comparison with a value that is not there is neither true nor false, as in SQL: such a row is left out, under `not` too.

It is parsed by Python's own grammar into a tree of which only the nodes named here are taken; nothing is ever evaluated as
Python.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError

MAX_LENGTH = 2000
MAX_DEPTH = 30
_KINDS = {"number": "a number", "text": "text", "flag": "true or false", "null": "null"}
_NAMES: dict[str, Any] = {"null": None, "none": None, "true": True, "false": False}
_COMPARISONS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("==", lambda a, b: a == b),
    ast.NotEq: ("!=", lambda a, b: a != b),
    ast.Lt: ("<", lambda a, b: a < b),
    ast.LtE: ("<=", lambda a, b: a <= b),
    ast.Gt: (">", lambda a, b: a > b),
    ast.GtE: (">=", lambda a, b: a >= b),
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    # the operators of expressions fail on overflow and on division by 0
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    # of floats: whole numbers would be divided to whole numbers, and by 0 not at all
    ast.Div: lambda a, b: pc.divide(a.cast(pa.float64()), b.cast(pa.float64())),
}
_TEXT_TESTS: dict[str, Callable[[Any, str], Any]] = {
    "contains": lambda a, text: pc.match_substring(a, text, ignore_case=True),
    "starts_with": lambda a, text: pc.starts_with(a, text),
    "ends_with": lambda a, text: pc.ends_with(a, text),
    "like": lambda a, text: pc.match_like(a, text),
    "matches": lambda a, text: pc.match_substring_regex(a, text),
}
_FUNCTIONS = (*_TEXT_TESTS, "abs", "length", "column")


@dataclass(frozen=True, slots=True)
class Where:
    """A filter: an Arrow expression of the columns named, to be put to the table that `readable` makes of them."""

    text: str
    columns: tuple[str, ...]
    expression: pc.Expression

    def __and__(self, other: Where) -> Where:
        """Both."""
        columns = dict.fromkeys([*self.columns, *other.columns])
        return Where(f"({self.text}) and ({other.text})", tuple(columns), self.expression & other.expression)

    def rows(self, table: pa.Table) -> pa.Array:
        """Numbers of the rows of a table that match, ascending; it has `columns` at least."""
        numbered = readable(table.select(self.columns)).append_column("", pa.array(np.arange(table.num_rows)))
        return numbered.filter(self.expression).column("").combine_chunks()


def parse_where(text: str, schema: pa.Schema) -> Where:
    """A filter of a table with this schema. Raises ConfigError that says what is wrong and what is there instead."""
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"the filter has {len(text)} characters", f"It may have {MAX_LENGTH}.")
    tree = _tree(text)
    compiler = _Compiler(schema)
    found = compiler.compile(tree)
    if found.kind != "flag":
        raise ConfigError(
            f"the filter {text!r} is {_KINDS[found.kind]}, not a test that a row passes or fails",
            "Compare it with something: alignment_potential > 1.",
        )
    if not compiler.columns:
        raise ConfigError(f"the filter {text!r} names no column", f"Columns: {', '.join(compiler.kinds)}.")
    return Where(text, tuple(compiler.columns), found.expression)


def columns_for_where(schema: pa.Schema) -> dict[str, str]:
    """Name -> number, text or flag of the columns that a filter can name."""
    return {field.name: kind for field in schema if (kind := _kind_of(field.type)) is not None}


def readable(table: pa.Table) -> pa.Table:
    """The table with each conversation as one text, its turns a line each."""
    for position, field in enumerate(table.schema):
        if _is_conversation(field.type):
            chunks = [_joined(chunk) for chunk in table.column(position).chunks]
            table = table.set_column(position, field.name, pa.chunked_array(chunks, pa.string()))
    return table


def _joined(turns: pa.ListArray) -> pa.Array:
    contents = pc.struct_field(pc.list_flatten(turns), "content")
    offsets = pc.subtract(turns.offsets, turns.offsets[0])
    return pc.binary_join(pa.ListArray.from_arrays(offsets, contents), "\n")


def _is_conversation(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        and pa.types.is_struct(kind.value_type)
        and {"role", "content"} <= {field.name for field in kind.value_type}
    )


def _kind_of(kind: pa.DataType) -> str | None:
    if pa.types.is_boolean(kind):
        return "flag"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_conversation(kind) else None


def _tree(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash in a pattern
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        near = text.strip()[error.offset - 1 :][:20] if error.offset else ""
        at = f" at {near!r}" if near else " at its end"
        raise ConfigError(
            f"the filter {text!r} cannot be read{at}",
            "Write it like: alignment_potential > 1 and not kept. Equal is ==; and, or, not, in, is null are in lower case, "
            "text is in quotes.",
        ) from None
    except (ValueError, MemoryError, RecursionError):
        raise ConfigError("the filter cannot be read", "It is nested too deeply, or holds a null character.") from None
    if _depth(tree) > MAX_DEPTH:
        raise ConfigError("the filter is nested too deeply", f"At most {MAX_DEPTH} levels.")
    return tree


def _depth(tree: ast.AST) -> int:
    """Levels of the tree, counted without recursion."""
    depth, level = 0, [tree]
    while level:
        depth += 1
        level = [child for node in level for child in ast.iter_child_nodes(node) if not isinstance(child, ast.boolop)]
    return depth


@dataclass(frozen=True, slots=True)
class _Value:
    """Part of a filter: what it is, as an expression, and the constant where it is one."""

    kind: str
    expression: Any
    constant: Any = None
    is_constant: bool = False


class _Compiler:
    """The tree as an expression; `columns` are those that it names, in order."""

    def __init__(self, schema: pa.Schema) -> None:
        self._all = list(schema.names)
        self.kinds = columns_for_where(schema)
        self.columns: dict[str, None] = {}

    def compile(self, node: ast.AST) -> _Value:
        for kind, method in self._METHODS.items():
            if isinstance(node, kind):
                return method(self, node)
        raise ConfigError(
            f"{_source(node)!r} is not part of the filter language",
            "There are columns, numbers, 'text', comparisons, in (...), is null, and, or, not, + - * /, "
            f"and the functions {', '.join(_FUNCTIONS)}.",
        )

    def _name(self, node: ast.Name) -> _Value:
        if node.id not in self._all and node.id.lower() in _NAMES:
            return _constant(_NAMES[node.id.lower()])
        return self._column(node.id)

    def _column(self, name: str) -> _Value:
        if name in self.kinds:
            self.columns[name] = None
            return _Value(self.kinds[name], pc.field(name))
        if name in self._all:
            raise ConfigError(f"{name} holds lists, which cannot be compared", f"Columns: {', '.join(self.kinds)}.")
        near = difflib.get_close_matches(name, self.kinds, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no column {name!r}", f"{hint}Columns: {', '.join(self.kinds)}.")

    def _literal(self, node: ast.Constant) -> _Value:
        if node.value is None or isinstance(node.value, (bool, int, float, str)):
            return _constant(node.value)
        raise ConfigError(f"{_source(node)!r} is neither a number nor text", "Text stands in quotes: 'like this'.")

    def _bool(self, node: ast.BoolOp) -> _Value:
        word = "and" if isinstance(node.op, ast.And) else "or"
        parts = [self._flag(value, word) for value in node.values]
        found = parts[0]
        for part in parts[1:]:
            found = found & part if word == "and" else found | part
        return _Value("flag", found)

    def _flag(self, node: ast.expr, word: str) -> Any:
        found = self.compile(node)
        if found.kind != "flag":
            raise ConfigError(
                f"{word!r} takes tests, and {_source(node)!r} is {_KINDS[found.kind]}", "Compare it with something."
            )
        return found.expression

    def _unary(self, node: ast.UnaryOp) -> _Value:
        if isinstance(node.op, ast.Not):
            return _Value("flag", ~self._flag(node.operand, "not"))
        value = self._number(node.operand, "a sign")
        if isinstance(node.op, ast.UAdd):
            return value
        if not isinstance(node.op, ast.USub):
            raise ConfigError(f"{_source(node)!r} is not part of the filter language", "Negation is written not.")
        return _constant(-value.constant) if value.is_constant else _Value("number", pc.negate(value.expression))

    def _number(self, node: ast.AST, what: str) -> _Value:
        found = self.compile(node)
        if found.kind != "number":
            raise ConfigError(f"{what} takes numbers, and {_source(node)!r} is {_KINDS[found.kind]}", "")
        return found

    def _binary(self, node: ast.BinOp) -> _Value:
        operation = _ARITHMETIC.get(type(node.op))
        if operation is None:
            hint = "and, or stand in words." if isinstance(node.op, (ast.BitAnd, ast.BitOr)) else "There is + - * /."
            raise ConfigError(f"{_source(node)!r} is not part of the filter language", hint)
        left, right = (self._number(side, "arithmetic") for side in (node.left, node.right))
        return _Value("number", operation(left.expression, right.expression))

    def _compare(self, node: ast.Compare) -> _Value:
        found = None
        sides = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
            one = self._comparison(operator, left, right)
            found = one if found is None else found & one
        return _Value("flag", found)

    def _comparison(self, operator: ast.cmpop, left: ast.expr, right: ast.expr) -> Any:
        if isinstance(operator, (ast.In, ast.NotIn)):
            inside = self._inside(left, right)
            return inside if isinstance(operator, ast.In) else ~inside
        one, two = self.compile(left), self.compile(right)
        if isinstance(operator, (ast.Is, ast.IsNot)):
            test = self._is(one, two, right)
            return test if isinstance(operator, ast.Is) else ~test
        if "null" in (one.kind, two.kind):
            raise ConfigError("nothing is equal to null", "Write `is null` or `is not null`.")
        shown = f"{_source(left)!r} is {_KINDS[one.kind]}, {_source(right)!r} is {_KINDS[two.kind]}"
        if one.kind != two.kind:
            raise ConfigError(f"{shown}: they cannot be compared", "Text stands in quotes, numbers do not.")
        symbol, compare = _COMPARISONS[type(operator)]
        if one.kind == "flag" and symbol not in ("==", "!="):
            raise ConfigError(f"{shown}: there is no order between them", "Write == or !=.")
        return compare(one.expression, two.expression)

    @staticmethod
    def _is(one: _Value, two: _Value, right: ast.expr) -> Any:
        if two.is_constant and two.kind == "null":
            return one.expression.is_null(nan_is_null=True)
        if two.is_constant and two.kind == "flag" == one.kind:
            # unlike ==, a value that is not there is not true, so that `is not true` holds for it
            return pc.coalesce(one.expression == two.expression, pc.scalar(False))
        raise ConfigError(f"`is` goes with null, true and false, not with {_source(right)!r}", "Equal is written ==.")

    def _inside(self, left: ast.expr, right: ast.expr) -> Any:
        if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            raise ConfigError(
                f"`in` takes a list in brackets, not {_source(right)!r}",
                "Write: finish_reason in ('stop', 'length'). Text inside text: contains(chosen, 'word').",
            )
        one, values = self.compile(left), [self.compile(item) for item in right.elts]
        if one.kind not in ("number", "text"):
            raise ConfigError(f"{_source(left)!r} is {_KINDS[one.kind]}: `in` takes numbers or text", "")
        wrong = [item for item, value in zip(right.elts, values, strict=True) if not value.is_constant]
        other = [item for item, value in zip(right.elts, values, strict=True) if value.kind != one.kind]
        if wrong or other:
            item = (wrong or other)[0]
            what = "it may hold values only" if wrong else f"{_source(left)!r} is {_KINDS[one.kind]}"
            raise ConfigError(f"{_source(item)!r} does not belong into the list of `in`: {what}", "")
        kind = pa.float64() if one.kind == "number" else pa.string()
        among = pa.array([value.constant for value in values], kind)
        expression = one.expression.cast(kind)
        # a row without the value is in no list and outside of none
        return pc.if_else(expression.is_valid(), expression.isin(among), pc.scalar(pa.scalar(None, pa.bool_())))

    def _call(self, node: ast.Call) -> _Value:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS:
            near = difflib.get_close_matches(name, _FUNCTIONS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"there is no function {_source(node.func)!r}", f"{hint}Functions: {', '.join(_FUNCTIONS)}."
            )
        wanted = 2 if name in _TEXT_TESTS else 1
        if node.keywords or len(node.args) != wanted:
            example = f"{name}(chosen, 'word')" if wanted == 2 else f"{name}(x)"
            raise ConfigError(f"{name} takes {wanted} {'values' if wanted > 1 else 'value'}", f"Write: {example}.")
        if name == "column":
            value = self.compile(node.args[0])
            if not value.is_constant or value.kind != "text":
                raise ConfigError("column takes the column's name in quotes", "Write: column('my column') > 1.")
            return self._column(value.constant)
        if name == "abs":
            return _Value("number", pc.abs(self._number(node.args[0], "abs").expression))
        text = self.compile(node.args[0])
        if text.kind != "text":
            raise ConfigError(f"{name} takes text, and {_source(node.args[0])!r} is {_KINDS[text.kind]}", "")
        if name == "length":
            return _Value("number", pc.utf8_length(text.expression))
        return _Value("flag", _TEXT_TESTS[name](text.expression, self._pattern(name, node.args[1])))

    def _pattern(self, name: str, node: ast.expr) -> str:
        value = self.compile(node)
        if not value.is_constant or value.kind != "text":
            raise ConfigError(f"the second value of {name} is text in quotes, not {_source(node)!r}", "")
        try:
            _TEXT_TESTS[name](pa.array([""]), value.constant)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{value.constant!r} is no regular expression ({error})", "") from None
        return str(value.constant)

    _METHODS: Mapping[type[ast.AST], Callable[[Any, Any], _Value]] = {
        ast.Name: _name, ast.Constant: _literal, ast.BoolOp: _bool, ast.UnaryOp: _unary, ast.BinOp: _binary,
        ast.Compare: _compare, ast.Call: _call,
    }  # fmt: skip


def _constant(value: Any) -> _Value:
    if value is None:
        return _Value("null", pc.scalar(None), None, True)
    if isinstance(value, bool):
        return _Value("flag", pc.scalar(value), value, True)
    if isinstance(value, str):
        return _Value("text", pc.scalar(value), value, True)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            value = float(value)
        except OverflowError:
            raise ConfigError("a number of the filter is too large", "Numbers go up to about 1e308.") from None
    return _Value("number", pc.scalar(value), value, True)


def _source(node: ast.AST) -> str:
    written = ast.unparse(node)
    return written if len(written) <= 60 else written[:59] + "…"
