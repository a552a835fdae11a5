"""Lists in the cells of a CSV, as JSON and as pandas writes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from selfplay.dataset_selection.reading.reading import read_dataset


def table(path: Path, rows: list[dict[str, Any]], write: Any) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(
            {name: value if isinstance(value, str) else write(value) for name, value in row.items()} for row in rows
        )
    return str(path)


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_messages_in_a_csv_are_messages(tmp_path: Path, write: Any, name: str) -> None:
    rows = [
        {"prompt": said("user", f"it's \"{n}\"\n"), "chosen": said("assistant", f"a{n}"),
         "rejected": said("user", f"it's \"{n}\"\n") + said("assistant", "b")}
        for n in range(3)
    ]  # fmt: skip
    pairs = read_dataset(table(tmp_path / name, rows, write)).pairs
    assert pairs is not None
    assert pairs["prompt"].to_pylist() == [row["prompt"] for row in rows]
    assert pairs["chosen"].to_pylist() == [row["chosen"] for row in rows]
    assert pairs["rejected"].to_pylist() == [said("assistant", "b")] * 3


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_responses_and_scores_in_a_csv_are_lists(tmp_path: Path, write: Any) -> None:
    rows = [{"prompt": "q", "responses": ["x", "it's y", "z"], "rewards": [1.5, 2, None]}]
    found = read_dataset(table(tmp_path / "a.csv", rows, write)).responses
    assert found is not None
    assert found["text"].to_pylist() == ["x", "it's y", "z"]
    assert found["reward"].to_pylist() == [1.5, 2.0, None]


@pytest.mark.parametrize(
    "answer",
    ["[1, 2]", "[]", "{}", "[{}]", '{"a": 1}', "[" * 500, "[link](x)", "{'role': 1}", '["a"', "[x for x in y]"],
)
def test_an_answer_that_looks_like_a_list_stays_an_answer(tmp_path: Path, answer: str) -> None:
    rows = [{"prompt": "q", "chosen": answer, "rejected": "b"}]
    pairs = read_dataset(table(tmp_path / "a.csv", rows, json.dumps)).pairs
    assert pairs is not None
    assert pairs["chosen"].to_pylist() == [said("assistant", answer)]


def test_in_json_a_text_is_a_text(tmp_path: Path) -> None:
    text = json.dumps(said("assistant", "a"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "q", "chosen": text, "rejected": "b"}) + "\n")
    pairs = read_dataset(str(tmp_path / "a.jsonl")).pairs
    assert pairs is not None
    assert pairs["chosen"].to_pylist() == [said("assistant", text)]
