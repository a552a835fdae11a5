"""The JSON of the inspection commands is frozen: every key with its types, as files in `golden_json/`.

A key that is removed, renamed or of another type fails; so does one that is added, which is allowed within a schema version:
`WRITE_GOLDEN=1 python -m pytest tests/behaviour/test_golden_json.py` writes the files again; review the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from selfplay.inspect.reading import SCHEMA_VERSION

GOLDEN = Path(__file__).parent / "golden_json"
COMMANDS = {
    "status": ["status", "RUN"],
    "rounds": ["rounds", "RUN"],
    "show": ["show", "RUN", "2", "--by", "topic"],
    "show_round_0": ["show", "RUN", "0"],
    "pairs": ["pairs", "RUN", "1", "--where", "rank > 1", "--sort", "explicit_margin", "--limit", "20"],
    "pairs_content": ["pairs", "RUN", "1", "--content"],
    "pair": ["pair", "RUN", "p1-002-r001-2-1"],
    "diff": ["diff", "RUN@1", "RUN@2"],
    "diff_content": ["diff", "RUN@0", "RUN@2", "--content"],
    "sql": ["sql", "RUN", "select pair_id, rank, kept from pairs order by pair_id", "--limit", "3"],
}


def shape(value: Any) -> Any:
    """Names and types of a document: of a list those that its members have together, `NAME?` where some lack it."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [joined([shape(inner) for inner in value])] if value else []
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "boolean"
    return "number" if isinstance(value, (int, float)) else "string"


def joined(shapes: list[Any]) -> Any:
    """One shape for all of these."""
    if all(isinstance(one, dict) for one in shapes):
        found: dict[str, list[Any]] = {}
        for one in shapes:
            for name, inner in one.items():
                found.setdefault(name.removesuffix("?"), []).append(inner)
        optional = {name for one in shapes for name in found if name not in one}
        return {f"{name}?" if name in optional else name: joined(inner) for name, inner in found.items()}
    if all(isinstance(one, list) for one in shapes):
        members = [inner for one in shapes for inner in one]
        return [joined(members)] if members else []
    words = {word for one in shapes for word in (one.split(" | ") if isinstance(one, str) else [json.dumps(one)])}
    return " | ".join(sorted(words))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_form_is_the_frozen_one(selfplay: Callable[..., Result], whole_run: Path, name: str) -> None:
    line = [word.replace("RUN", str(whole_run)) for word in COMMANDS[name]]
    result = selfplay(*line, "--json")
    assert (result.exit_code, result.stderr) in ((0, ""), (0, "the first 3 rows are shown; --limit 0 shows all\n"))
    document = json.loads(result.stdout)
    assert document["schema_version"] == SCHEMA_VERSION
    found, path = shape(document), GOLDEN / f"{name}.json"
    if os.environ.get("WRITE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    frozen = json.loads(path.read_text())
    assert found == frozen, f"the form of `{name} --json` is not {path.name}: see the first lines of this file"


def test_shapes_tell_forms_apart() -> None:
    rows = [{"a": 1, "b": None, "c": [True]}, {"a": 2.5, "b": "x", "c": []}, {"a": 3, "c": []}]
    assert shape({"rows": rows}) == {"rows": [{"a": "number", "b?": "null | string", "c": ["boolean"]}]}
    assert shape([]) == []
    assert shape([{"a": {"x": 1}}, {"a": None}]) == [{"a": 'null | {"x": "number"}'}]
