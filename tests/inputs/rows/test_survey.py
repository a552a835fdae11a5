"""What a source holds: columns, fields inside of them, and the kinds of their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.fields import value_at
from selfplay.inputs.rows.source import open_source
from selfplay.inputs.rows.survey import kind_of, survey

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "value, kind",
    [
        (None, None), ("", None), ([], None), ({}, None), ("a", "text"), (1, "number"), (True, "number"), (b"a", "media"),
        ([USER], "messages"), ([USER, ANSWER], "dialogue"), ([[USER, ANSWER], [USER]], "dialogues"), (USER, "messages"),
        ([ANSWER], "answer"), (ANSWER, "answer"), ([[ANSWER], [ANSWER]], "answers"),
        ([{"a": 1}], "objects"), ({"a": 1}, "object"), (["a", "b"], "texts"), ([["a", "b"]], "turns"), ([1, 2], "list"),
        ({"bytes": b"", "path": "a"}, "media"), ("\n\nHuman: q\n\nAssistant: a", "dialogue"),
        ("\n\nHuman: q\n\nAssistant:", "text"), ([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "dialogue"),
    ],
)  # fmt: skip
def test_kinds_of_values(value: Any, kind: str | None) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_fields_of_all_rows(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"q": "a", "c": [{"text": "b", "of": {"who": "m"}}], "turns": [ANSWER]} for _ in range(200)
    ]
    rows.append({"q": "a", "c": [{"text": "b", "of": {"who": "m"}, "late": 1}], "turns": [ANSWER], "z": {"last": 2}})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{"z": None, **row} for row in rows], None), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = survey(open_source(str(path)))
    assert {*found.columns} == {"q", "c", "turns", "z"}
    assert {"c.text", "c.of", "c.of.who", "z.last"} <= {*found.fields}
    assert found.kind("q") == "text" and found.kind("c") == "objects" and found.kind("turns") == "answer"
    assert found.kind("z") is None


def test_values_by_dotted_names() -> None:
    row = {
        "c": [{"text": "x", "of": {"n": 1}}, {"text": "y", "of": None}],
        "a.b": 3,
        "s": '[{"n": 1}, {"n": 2}]',
        "a": {"b": 4},
    }
    assert value_at(row, "c.text") == ["x", "y"] and value_at(row, "c.of.n") == [1, None]
    assert value_at(row, "a.b") == 3 and value_at(row, "s.n") == [1, 2]
    assert value_at(row, "c.none") == [None, None]
    for name in ("d", "a.none", "a.b.c"):
        with pytest.raises(BadValue, match="no_column"):
            value_at(row, name)
