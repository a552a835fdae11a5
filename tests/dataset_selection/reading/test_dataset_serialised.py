"""Lists and messages that are stored as text: JSON, and what pandas prints into a CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.dataset_selection.reading.dataset import read_dataset
from selfplay.inputs.prompts import load_prompts


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


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_messages_as_json_text_are_messages_in_every_format(tmp_path: Path, kind: str) -> None:
    row = {"prompt": said("user", "q"), "chosen": said("assistant", "a"), "rejected": said("assistant", "b")}
    rows = [{name: json.dumps(value) for name, value in row.items()}]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        table(path, rows, str)
    else:
        path.write_text(json.dumps(rows[0]) + "\n")
    pairs = read_dataset(str(path)).pairs
    assert pairs is not None
    assert [pairs[name].to_pylist() for name in row] == [[value] for value in row.values()]


@pytest.mark.parametrize(
    "chosen",
    [
        json.dumps(said("assistant", "a")),  # beside a plain text: could be either
        "[Message(role='assistant', content='a')]",
        "[{'role': assistant, 'content': a}]",  # DuckDB
        "[{role=assistant, content=a}]",  # Trino
        "[{assistant, a}]",  # Spark
        '[{\\"role\\": \\"assistant\\", \\"content\\": \\"a\\"}]',
        '{"messages": [{"role": "assistant", "content": "a"}]}',
        '[["assistant", "a"]]',
        "[{'name': 'x', 'role': 'assistant', 'content': 'a'}, ...]",
        "[{'role': 'assistant', 'content': 'a' 'b'}]",
        '[{"role": "assistant", "content": "a"',
    ],
)
def test_text_that_may_be_messages_is_refused(tmp_path: Path, chosen: str) -> None:
    rows = [{"prompt": "q", "chosen": chosen, "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_dataset(str(tmp_path / "a.jsonl")).bad_rows.counts == {"serialised_messages": 1}


def test_messages_as_numpy_prints_them(tmp_path: Path) -> None:
    turns = [*said("user", 'it\'s {a} "b"\n{c}'), *said("assistant", "d")]
    lines = np.array(turns, dtype=object)
    rows = [{"chosen": str(lines), "rejected": repr(lines).replace("'d'", "'e'")}]
    pairs = read_dataset(table(tmp_path / "a.csv", rows, str)).pairs
    assert pairs is not None and pairs["prompt"].to_pylist() == [turns[:1]]
    assert pairs["chosen"].to_pylist() == [turns[1:]] and pairs["rejected"].to_pylist() == [said("assistant", "e")]


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_prompts_of_a_run_as_text(tmp_path: Path, write: Any) -> None:
    twice = json.dumps(json.dumps(said("user", "q")))
    rows = [{"prompt": said("user", "q"), "n": 1}, {"prompt": twice, "n": 2}, {"prompt": '["q"]', "n": 3}]
    source = load_prompts(table(tmp_path / "a.csv", rows, write), "prompt")
    assert [prompt.messages for prompt in source.prompts] == [said("user", "q")] * 2
    assert source.bad_rows.counts == {"serialised_messages": 1}


def test_lists_of_objects_in_a_csv(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completions": [{"response": "x", "score": 1.5}, {"response": "y", "score": 2}]}]
    for write in (json.dumps, repr):
        found = read_dataset(table(tmp_path / "a.csv", rows, write)).responses
        assert found is not None and found["text"].to_pylist() == ["x", "y"] and found["reward"].to_pylist() == [1.5, 2]


def test_lists_of_texts_without_commas_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,responses\nq,\"['x' 'y']\"\nq,\"['x', 'y']\"\n")
    dataset = read_dataset(str(tmp_path / "a.csv"))
    assert dataset.bad_rows.counts == {"not_a_list": 1}
    assert dataset.responses is not None and dataset.responses["text"].to_pylist() == ["x", "y"]
