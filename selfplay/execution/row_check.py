"""Whether a worker answered what it was asked: a row for each item, in their order. Asked before anything of an answer is kept;
rows of other responses, once committed, could only be named as an injury.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from selfplay.core.errors import BackendError
from selfplay.core.protocols import LogprobItem, Question, SampleRequest, SamplingSettings, ScoreItem

_RESPONSES = (ScoreItem, LogprobItem, Question)


def rows_asked(arguments: tuple[Any, ...]) -> list[object] | None:
    """The keys of the rows that a call with these arguments has to give: response ids or, of a sampler, prompt ids with the
    response's index. None for a call of another kind."""
    asked: list[Any] = next((given for given in arguments if isinstance(given, list) and given), [None])
    if isinstance(asked[0], SampleRequest):
        settings = next(given for given in arguments if isinstance(given, SamplingSettings))
        return [(request.prompt_id, index) for request in asked for index in request.indices(settings)]
    if isinstance(asked[0], _RESPONSES):
        return [item.response_id for item in asked]
    return None


def check_answered(what: str, wanted: list[object], table: pa.Table) -> None:
    """Raise BackendError where a table's rows are not those that were asked for."""
    names = ("response_id",) if "response_id" in table.column_names else ("prompt_id", "response_index")
    columns = [table[name].to_pylist() for name in names]
    found = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    if found != wanted:
        known = {*wanted}
        strangers = [row for row in found if row not in known][:1]
        raise BackendError(
            f"{what}: the worker was asked for {len(wanted)} rows and answered with {len(found)}"
            + (f", one of them of {strangers[0]}" if strangers else ", not the same ones in the same order"),
            "Nothing of the answer is kept. This is a fault of the backend, not of the data.",
        )
