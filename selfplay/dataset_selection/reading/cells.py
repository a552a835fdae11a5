"""Lists in the cells of a CSV, which has only texts: messages, responses and their numbers as they are written there.

Both ways of writing them are read: JSON, and Python's own (what pandas makes of a list). A text stays a text unless it holds
what its column can hold as a list, so that an answer like "[1, 2]" is still one.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from selfplay.dataset_selection.reading.columns import Columns
from selfplay.inputs.row_reader import Source, SourceRow
from selfplay.inputs.source_files import file_format

_MESSAGES = ("prompt", "chosen", "rejected", "response")
_LISTS = ("responses", "rewards", "policy_logps", "reference_logps", "nums_tokens", "embedding")
_KEYS = ({"role", "content"}, {"from", "value"})


def rows(source: Source, columns: Columns) -> Iterator[SourceRow]:
    """The rows of a source, with the lists in the cells of a CSV taken apart."""
    if not any(file_format(file) in ("csv", "tsv") for file in source.files):
        yield from source.rows()
        return
    theirs = {columns.names[ours]: ours in _LISTS for ours in (*_MESSAGES, *_LISTS) if ours in columns.names}
    for item in source.rows():
        if item.values is None:
            yield item
            continue
        found = {name: _cell(item.values.get(name), is_list) for name, is_list in theirs.items() if name in item.values}
        yield replace(item, values={**item.values, **found})


def _cell(value: Any, is_list: bool) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    found = _parsed(value)
    if is_list:
        return found if isinstance(found, list) else value
    entries = found if isinstance(found, list) else [found]
    is_messages = all(isinstance(entry, dict) and any(keys <= entry.keys() for keys in _KEYS) for entry in entries)
    return found if entries and is_messages else value


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
