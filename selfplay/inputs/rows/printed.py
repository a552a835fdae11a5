"""Values that a program wrote as text: JSON, or as Python, numpy and pandas print them.

Only what has one reading is parsed: of strings that stand side by side Python makes one and numpy means two, and an array that
numpy shortened ("...") has lost its middle.
"""

from __future__ import annotations

import ast
import io
import itertools
import tokenize
import warnings
from typing import Any

from selfplay.core.json_text import parse_json

_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def parsed_text(value: str) -> Any:
    """What a text holds as JSON, also where JSON was written into it twice, or as Python or numpy prints it. The text itself
    where it is none of these or has two readings."""
    try:
        found = parse_json(value)
    except ValueError:
        pass
    else:
        return parsed_text(found) if isinstance(found, str) and found.startswith(("[", "{")) else found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes
            tree = ast.parse(_with_commas(value.strip()), mode="eval")
            return ast.literal_eval(_Arrays().visit(tree))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, tokenize.TokenError):
        return value


def _with_commas(value: str) -> str:
    """The text with a comma between two objects that stand side by side, as numpy prints them. Raises ValueError for strings
    side by side."""
    if "\n" in value:  # outside of brackets and strings, layout would end the expression
        value = f"({value})"
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(value).readline) if token.type not in _LAYOUT]
    if any(first.type == second.type == tokenize.STRING for first, second in itertools.pairwise(tokens)):
        raise ValueError("two strings side by side")
    lines = value.splitlines(keepends=True)
    for first, second in reversed([*itertools.pairwise(tokens)]):
        if first.string == "}" and second.string == "{":
            row, column = second.start
            lines[row - 1] = f"{lines[row - 1][:column]},{lines[row - 1][column:]}"
    return "".join(lines)


# What numpy prints around a value: array([...], dtype=object), list([...]), np.float64(1.5), np.str_('a').
_AROUND = ("array", "list", "float64", "float32", "float16", "int64", "int32", "str_")


class _Arrays(ast.NodeTransformer):
    """The values that numpy prints something around, `nan` as None. Raises ValueError for an array that was shortened and
    for an object that has a key twice."""

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        keys = [ast.dump(key) for key in node.keys if key is not None]
        if len({*keys}) < len(keys):
            raise ValueError("a key is there twice")
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func
        if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id in ("np", "numpy"):
            name = ast.Name(name.attr)
        if isinstance(name, ast.Name) and name.id in _AROUND and len(node.args) == 1:
            found: ast.AST = self.visit(node.args[0])
            return found
        raise ValueError("a call")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == "nan":
            return ast.copy_location(ast.Constant(None), node)
        raise ValueError("a name")

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if node.value is Ellipsis:
            raise ValueError("a shortened array")
        return node
