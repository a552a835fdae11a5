"""Checks that a worker returned what it was asked for: a row for each item, in the same order. Runs before any row is written;
rows of other responses, once committed, could only be reported as damage.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from selfplay.core.errors import BackendError
from selfplay.core.protocols import LogprobItem, Question, SampleRequest, SamplingSettings, ScoreItem

_RESPONSES = (ScoreItem, LogprobItem, Question)


def requested_rows(arguments: tuple[Any, ...]) -> list[object] | None:
    """The keys of the rows that a call with these arguments must return: response ids or, from a sampler, prompt ids with the
    response's index. None for a call of another kind."""
    items: list[Any] = next((given for given in arguments if isinstance(given, list) and given), [None])
    if isinstance(items[0], SampleRequest):
        settings = next(given for given in arguments if isinstance(given, SamplingSettings))
        return [(request.prompt_id, index) for request in items for index in request.indices(settings)]
    if isinstance(items[0], _RESPONSES):
        return [item.response_id for item in items]
    return None


def check_result_rows(what: str, expected: list[object], table: pa.Table) -> None:
    """Raise BackendError if the rows of `table` are not the expected ones."""
    names = ("response_id",) if "response_id" in table.column_names else ("prompt_id", "response_index")
    columns = [table[name].to_pylist() for name in names]
    found = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    if found != expected:
        known = {*expected}
        strangers = [row for row in found if row not in known][:1]
        raise BackendError(
            f"{what}: the worker was asked for {len(expected)} rows and returned {len(found)}"
            + (f", among them one for {strangers[0]}" if strangers else ", not the same ones in the same order"),
            "Nothing of the result was written. This is a bug of the backend, not a problem of the data.",
        )
